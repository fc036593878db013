"""The webhook's manifests: its rights, its certificate, who reaches it and when."""

from admission.__main__ import _parse_args
from tests.deploy.manifests import DEPLOY, pod_of, read_base

OBJECTS = read_base()
DEPLOYMENT = OBJECTS["Deployment", "vfpool-webhook"]
POD = pod_of(DEPLOYMENT)
CONTAINER = POD["containers"][0]
SERVICE = OBJECTS["Service", "vfpool-webhook"]
WEBHOOK, = OBJECTS["MutatingWebhookConfiguration", "vfpool"]["webhooks"]


def test_it_may_read_networks_and_nothing_else():
    roles = {name: each["rules"] for (kind, name), each in OBJECTS.items() if kind in ("Role", "ClusterRole")}
    assert roles == {"vfpool-webhook": [{
        "apiGroups": ["k8s.cni.cncf.io"], "resources": ["network-attachment-definitions"],
        "verbs": ["get", "list", "watch"]}]}
    binding = OBJECTS["ClusterRoleBinding", "vfpool-webhook"]
    assert binding["roleRef"]["name"] == "vfpool-webhook"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": POD["serviceAccountName"], "namespace": "vfpool-system"}]


def test_its_arguments_are_its_own_and_its_files_are_mounted():
    args = _parse_args([*CONTAINER["args"]])
    mount, = CONTAINER["volumeMounts"]
    volume, = POD["volumes"]
    assert CONTAINER["command"] == ["vfpool-webhook"]
    assert volume["secret"]["secretName"] == "vfpool-webhook-tls"
    # The keys of a Secret of type kubernetes.io/tls.
    assert [str(args.tls_cert_file), str(args.tls_key_file)] == [
        f"{mount['mountPath']}/tls.crt", f"{mount['mountPath']}/tls.key"]
    assert "subPath" not in mount


def test_the_api_server_finds_it():
    args = _parse_args([*CONTAINER["args"]])
    port, = CONTAINER["ports"]
    service_port, = SERVICE["spec"]["ports"]
    assert args.bind == ("", port["containerPort"])
    assert service_port["targetPort"] == port["name"]
    assert WEBHOOK["clientConfig"] == {"service": {
        "name": SERVICE["metadata"]["name"], "namespace": SERVICE["metadata"]["namespace"], "path": "/mutate",
        "port": service_port["port"]}}
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    for selector in (SERVICE["spec"]["selector"], DEPLOYMENT["spec"]["selector"]["matchLabels"],
                     OBJECTS["PodDisruptionBudget", "vfpool-webhook"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_probes():
    assert CONTAINER["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "https", "scheme": "HTTPS"}
    # Not HTTPS: without a certificate it could not answer, and a restart would not bring one.
    assert CONTAINER["livenessProbe"]["tcpSocket"] == {"port": "https"}
    assert "httpGet" not in CONTAINER["livenessProbe"]


def test_it_is_as_confined_as_the_restricted_level_wants():
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    context = POD["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] != 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not POD.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert not any("hostPath" in volume for volume in POD["volumes"])


def test_only_new_pods_with_networks_reach_it():
    assert WEBHOOK["rules"] == [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                                 "resources": ["pods"], "scope": "Namespaced"}]
    condition, = WEBHOOK["matchConditions"]
    # An object without annotations has no such key at all: asking for one of them is an error, which
    # failurePolicy would turn into a refusal.
    assert condition["expression"] == (
        "has(object.metadata.annotations) && 'k8s.v1.cni.cncf.io/networks' in object.metadata.annotations")
    assert WEBHOOK["failurePolicy"] == "Fail"
    assert WEBHOOK["sideEffects"] == "None"
    assert WEBHOOK["reinvocationPolicy"] == "IfNeeded"
    assert WEBHOOK["timeoutSeconds"] <= 5


def test_its_own_pods_and_the_system_s_do_not_need_it():
    expression, = WEBHOOK["namespaceSelector"]["matchExpressions"]
    assert expression == {"key": "kubernetes.io/metadata.name", "operator": "NotIn",
                          "values": ["kube-system", DEPLOYMENT["metadata"]["namespace"]]}


def test_one_is_always_there():
    assert DEPLOYMENT["spec"]["replicas"] >= 2
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert OBJECTS["PodDisruptionBudget", "vfpool-webhook"]["spec"]["minAvailable"] == 1


def test_the_certificate_of_the_readme_names_the_service():
    name = f"{SERVICE['metadata']['name']}.{SERVICE['metadata']['namespace']}.svc"
    text = (DEPLOY / "README.md").read_text()
    assert f"name={name}\n" in text
    assert 'subjectAltName=DNS:$name"' in text

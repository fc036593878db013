"""What is injected into which container, and what is denied; twice is the same as once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.mutation import Absent, Nad, Unknown, escape_pointer, is_extended_resource, plan, read_networks
from admission.pod import DEFAULT_CONTAINER, parse_count, parse_pod
from admission.review import Denial, Reason, Verdict
from cni.annotation import NETWORKS
from sriov.errors import InputError
from tests.admission.pods import DPDK, NADS, SRIOV, apply_patch, container, pod
from tests.cni.test_protocol import json_values


def decide(document, nads=NADS, namespace="default"):
    parsed = parse_pod(document)
    networks = read_networks(parsed, namespace)
    return networks if isinstance(networks, Verdict) else plan(parsed, networks, nads)


def patched(document, nads=NADS):
    """The pod after an admission with nothing to warn about."""
    verdict = decide(document, nads)
    assert (verdict.denial, verdict.warnings) == (None, ())
    return apply_patch(document, verdict.patch)


def amounts(document, index=0):
    """Limits of a container, which are its requests, too."""
    resources = document["spec"]["containers"][index]["resources"]
    assert resources["limits"] == resources["requests"]
    return resources["limits"]


# ---- injection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("networks", "expected"), [
    ("fast", {SRIOV: "1"}), ("fast,fast", {SRIOV: "2"}), ("fast,other/fast,dpdk", {SRIOV: "2", DPDK: "1"})])
def test_what_networks_need(networks, expected):
    assert amounts(patched(pod(networks))) == expected


@pytest.mark.parametrize("networks", [None, "[]", "bridge", "blank,bridge"])
def test_pods_that_need_nothing(networks):
    assert decide(pod(networks)) == Verdict()


def test_the_patch_itself():
    resources = "/spec/containers/0/resources"
    assert decide(pod("dpdk,fast,fast", container(limits={"cpu": "1"}))).patch == (
        {"op": "add", "path": f"{resources}/limits/intel.com~1sriov", "value": "2"},
        {"op": "add", "path": f"{resources}/limits/intel.com~1sriov_dpdk", "value": "1"},
        {"op": "add", "path": f"{resources}/requests", "value": {}},
        {"op": "add", "path": f"{resources}/requests/intel.com~1sriov", "value": "2"},
        {"op": "add", "path": f"{resources}/requests/intel.com~1sriov_dpdk", "value": "1"},
    )
    bare = pod("fast")
    del bare["spec"]["containers"][0]["resources"]
    assert decide(bare).patch[0] == {"op": "add", "path": resources, "value": {}}
    assert amounts(patched(bare)) == {SRIOV: "1"}


def test_parts_of_pointers_are_escaped():
    assert escape_pointer("a/b~c~1") == "a~1b~0c~01"


@pytest.mark.parametrize(("declared", "total"), [
    ("1", "3"), (1, "3"), ("0", "3"), ("2", "3"), ("3", None), ("2k", None), (5, None)])
def test_what_is_declared_counts(declared, total):
    asked = pod("fast,fast,fast", container(limits={SRIOV: declared}, requests={SRIOV: declared}))
    if total is None:
        assert decide(asked) == Verdict()
    else:
        assert amounts(patched(asked)) == {SRIOV: total}


def test_containers_are_counted_together_and_sidecars_with_them():
    one = {SRIOV: "1"}
    asked = pod("fast,fast,fast,fast", container("a"), container("b", limits=one), initContainers=[
        container("setup", limits={SRIOV: "4"}), container("proxy", limits=one, restartPolicy="Always"),
        container("odd", limits=one, restartPolicy="Never")])
    after = patched(asked)
    assert amounts(after) == {SRIOV: "2"}
    assert after["spec"]["initContainers"] == asked["spec"]["initContainers"]


@pytest.mark.parametrize("resources", [
    {"limits": {SRIOV: "500m"}}, {"limits": {SRIOV: "-1"}}, {"limits": {SRIOV: "x"}}, {"requests": {SRIOV: 1.5}},
    {"limits": {SRIOV: "1"}, "requests": {SRIOV: "2"}}, {"limits": {SRIOV: True}}])
def test_quantities_that_the_api_server_refuses_are_left_to_it(resources):
    assert decide(pod("fast,fast,fast", container(**resources))) == Verdict()


def test_limit_or_request_alone():
    for one in (container(limits={SRIOV: "1"}), container(requests={SRIOV: "1"})):
        assert amounts(patched(pod("fast,fast", one))) == {SRIOV: "2"}


def test_the_default_container():
    key = DEFAULT_CONTAINER
    after = patched(pod("fast", container("a"), container("b"), annotations={key: "b"}))
    assert amounts(after, 1) == {SRIOV: "1"}
    assert after["spec"]["containers"][0] == container("a")
    verdict = decide(pod("fast", container("a"), container("b"), annotations={key: "c"}))
    assert verdict.patch[-1]["path"].startswith("/spec/containers/0/")
    assert verdict.warnings == (f'annotation {key}: "c" is no container of the pod, "a" gets the devices',)
    assert decide(pod("bridge", annotations={key: "c"})) == Verdict()      # it does not matter there


def test_pods_that_multus_does_not_attach():
    assert decide(pod("no,,sense", hostNetwork=True)) == Verdict(warnings=(
        f"annotation {NETWORKS} has no effect: the pod is in the node's network (spec.hostNetwork)",))
    assert decide(pod(None, hostNetwork=True)) == Verdict()
    assert decide(pod("no,,sense", annotations={"kubernetes.io/config.mirror": "x"})) == Verdict()


def test_no_containers_is_for_the_api_server_to_refuse():
    empty = pod("fast")
    empty["spec"]["containers"] = []
    assert decide(empty) == Verdict()
    empty["spec"]["containers"] = None
    assert decide(empty) == Verdict()


# ---- denials, warnings ----------------------------------------------------------------------------------


def denied(document, nads=NADS):
    verdict = decide(document, nads)
    assert verdict.patch == ()
    assert verdict.denial is not None
    assert verdict.denial.reason is Reason.INVALID
    return verdict.denial.message


def test_a_wrong_annotation_is_denied_with_its_warnings():
    verdict = decide(pod([{"name": "fast", "mac": "aa:bb", "mcc": 1}]))
    assert verdict == Verdict(
        denial=Denial(reason=Reason.INVALID, message=f"annotation {NETWORKS}: networks[0].mac: "
                      '"aa:bb" is not a 6-byte MAC address like 02:00:00:00:00:01'),
        warnings=("networks[0].mcc: unknown key, did you mean mac?",))


def test_absent_nads_are_named_with_what_there_is():
    def found(**absent):
        return {("default", "fats"): Absent(**absent)}

    kind = f"annotation {NETWORKS}: networks[0]: no NetworkAttachmentDefinition default/fats"
    assert denied(pod("fats"), found()) == kind
    assert denied(pod("fats"), found(nearest="fast")) == f"{kind}; nearest: default/fast"
    assert denied(pod("fats"), found(elsewhere=("a",))) == f"{kind}; there is a/fats"
    assert denied(pod("fats"), found(nearest="fast", elsewhere=("a", "b", "c", "d", "e"))) == (
        f"{kind}; nearest: default/fast; there is a/fats, b/fats, c/fats and 2 more")


def test_resource_names_that_are_none_are_the_fault_of_the_nad():
    nads = {("default", "fast"): Nad(resource="intel.com/sriov,x")}
    assert denied(pod("fast,fast"), nads) == f"""annotation {NETWORKS} has 2 problems:
- networks[0]: NetworkAttachmentDefinition default/fast: annotation k8s.v1.cni.cncf.io/resourceName: \
"intel.com/sriov,x" is not an extended resource like intel.com/sriov
- networks[1]: NetworkAttachmentDefinition default/fast: annotation k8s.v1.cni.cncf.io/resourceName: \
"intel.com/sriov,x" is not an extended resource like intel.com/sriov"""


def test_what_could_not_be_checked_is_admitted_with_a_warning():
    verdict = decide(pod("fast,new"), {**NADS, ("default", "new"): Unknown(reason="no answer")})
    assert verdict.denial is None
    assert verdict.patch[-1]["value"] == "1"
    assert verdict.warnings == ("networks[1]: no answer; no resource is requested for default/new",)


@pytest.mark.parametrize(("name", "valid"), [
    (SRIOV, True), ("a/B_c.d-e", True), ("x.y.z/" + "n" * 63, True), ("a" * 63 + "/n", True),
    ("sriov", False), ("/sriov", False), ("intel.com/", False), ("intel.com/a/b", False), ("Intel.com/a", False),
    (" intel.com/a", False), ("intel.com/a\n", False), ("kubernetes.io/a", False), ("x.kubernetes.io/a", False),
    ("requests.intel.com/a", False), ("x/" + "n" * 64, False), ("x/-a", False),
    (".".join(["a" * 60] * 5) + "/n", False)])
def test_extended_resources(name, valid):
    assert is_extended_resource(name) is valid


@pytest.mark.parametrize(("amount", "count"), [
    (0, 0), (7, 7), ("7", 7), ("+7", 7), ("2k", 2000), ("2Ki", 2048), ("1M", 10**6), ("1Ei", 2**60),
    ("9E", 9 * 10**18), ("8Ei", None), (2**63, None),
    (-1, None), (True, None), (1.0, None), ("1.0", None), ("1e3", None), ("m", None),
    ("2ki", None), ("٣", None), (None, None), ([], None), ("9" * 5000, None)])
def test_quantities(amount, count):
    assert parse_count(amount) == count


@pytest.mark.parametrize(("path", "wrong"), [
    (["spec"], 5), (["metadata"], []), (["metadata", "annotations"], "x"), (["spec", "containers"], {}),
    (["spec", "containers", 0], "x"), (["spec", "containers", 0, "resources"], []),
    (["spec", "containers", 0, "resources", "limits"], 5),
    (["spec", "containers", 0, "resources", "requests"], "1"), (["spec", "initContainers"], "x")])
def test_what_is_not_a_pod(path, wrong):
    document = pod("fast")
    target = document
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = wrong
    with pytest.raises(InputError, match=r"is not (an object|a list)"):
        decide(document)


# ---- properties -----------------------------------------------------------------------------------------


QUANTITIES = st.sampled_from(["0", "1", "2", 3, "1k"]) | json_values
RESOURCES = st.fixed_dictionaries({}, optional={
    kind: st.none() | st.dictionaries(st.sampled_from([SRIOV, DPDK, "cpu"]), QUANTITIES)
    for kind in ("limits", "requests", "claims")})
CONTAINERS = st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c"])}, optional={
    "resources": st.none() | RESOURCES, "restartPolicy": st.sampled_from(["Always", "Never"]), "env": json_values})
PODS = st.builds(
    lambda networks, containers, init, default, labels: {
        "metadata": {"annotations": {NETWORKS: ",".join(networks), DEFAULT_CONTAINER: default}, "labels": labels},
        "spec": {"containers": containers, "initContainers": init}},
    st.lists(st.sampled_from(["fast", "other/fast", "dpdk", "bridge"]), min_size=1, max_size=6),
    st.lists(CONTAINERS, min_size=1, max_size=4), st.none() | st.lists(CONTAINERS, max_size=3),
    st.sampled_from(["a", "b", "x"]), json_values)


def stripped(document):
    """The pod without what the patch may touch."""
    def without(entry):
        resources = {kind: {name: amount for name, amount in (value or {}).items() if name not in (SRIOV, DPDK)}
                     if kind in ("limits", "requests") else value
                     for kind, value in (entry.get("resources") or {}).items()}
        return {**entry, "resources": {kind: value for kind, value in resources.items() if value != {}}}

    spec = document["spec"]
    return {**document, "spec": {**spec, "containers": [without(entry) for entry in spec["containers"]]}}


@given(PODS)
def test_twice_is_once_and_nothing_is_lost(document):
    verdict = decide(document)
    assert verdict.denial is None
    after = apply_patch(document, verdict.patch)
    assert stripped(after) == stripped(document)
    assert decide(after).patch == ()
    touched = {operation["path"].split("/")[3] for operation in verdict.patch}
    assert len(touched) <= 1
    for index in map(int, touched):
        resources = after["spec"]["containers"][index]["resources"]
        added = {operation["path"].rpartition("/")[2].replace("~1", "/") for operation in verdict.patch}
        for name in added & {SRIOV, DPDK}:
            assert resources["limits"][name] == resources["requests"][name]


@given(st.lists(st.sampled_from(["fast", "other/fast", "dpdk"]), min_size=1, max_size=6),
       st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_what_is_needed_is_there_afterwards_and_no_more(networks, declared):
    document = pod(",".join(networks), *(container(str(n), limits={SRIOV: str(count)} if count else None)
                                         for n, count in enumerate(declared)))
    after = parse_pod(patched(document))
    for resource in (SRIOV, DPDK):
        needed = sum(NADS["default", network.rpartition("/")[2]].resource == resource for network in networks)
        before = sum(declared) if resource == SRIOV else 0
        assert sum(one.declares(resource) or 0 for one in after.containers) == max(needed, before)


POD_KEYS = st.sampled_from([
    "metadata", "spec", "annotations", "containers", "initContainers", "resources", "limits", "requests",
    "hostNetwork", "name", NETWORKS, SRIOV, "restartPolicy"])
GARBAGE = st.recursive(
    json_values | st.sampled_from(["fast", "fast,dpdk", "Always"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(POD_KEYS, inner, max_size=5), max_leaves=20)


@given(GARBAGE)
def test_any_json_is_decided_on_or_is_no_pod(document):
    try:
        verdict = decide(document, dict.fromkeys([*NADS], NADS["default", "fast"]))
    except InputError:
        return
    json.dumps(verdict.patch)

"""The node agent: serves the kubelet's device-plugin gRPC API and advertises VFs as extended resources.

Depends on sriov; __main__ joins in cni (the agent is device plugin and CNI service in one process).
Pure: allocation, changes. gRPC and protobuf stay in plugin, endpoint, registration, podresources and kubelet/,
asyncinotify in folders. agent joins the tasks: inventory owns what is advertised, publishes it as numbered
immutable snapshots that say what they changed, and every stream waits for a version newer than its own;
poolsource owns what the pool file says, provisioner makes the host so; grants knows whether a VF is a pod's;
nodestatus joins what they know, statusserver tells it to who asks. Events only ever say that it is time to look
again.
"""

"""The node agent: serves the kubelet's device-plugin gRPC API and advertises VFs as extended resources.

Depends on sriov; __main__ joins in cni (the agent is device plugin and CNI service in one process).
Pure: allocation. gRPC and protobuf stay in plugin, endpoint, registration and kubelet/, asyncinotify in
kubeletdir. One task owns the inventory and publishes numbered immutable snapshots; every stream waits for a
version newer than its own.
"""

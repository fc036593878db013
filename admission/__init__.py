"""The admission webhook: injects the resource request for pods that ask for an SR-IOV network.

Depends on sriov and on the pure modules of cni (one parser for webhook, CNI and command line).
"""

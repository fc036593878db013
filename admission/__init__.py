"""The admission webhook: injects the resource request for pods that ask for an SR-IOV network.

Depends on sriov and on the pure modules of cni (one parser for webhook, CNI and command line). Pure: review (the
wire), pod, mutation (what is injected, what is denied). nads owns what is known of the cluster, certificate what
the server shows (validity reads its dates), kubeconfig says what is wrong with one; handler joins them.
Only cluster imports kubernetes, only server aiohttp; __main__ is the composition root. What could not be checked
is admitted with a warning, never denied and never called fine.
"""

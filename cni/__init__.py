"""Moves the VF that the kubelet allocated into a pod's network namespace, and brings it home again.

Depends on sriov. One handler, two transports: the agent's unix socket (cni/shim is the executable that
the runtime calls) and `python -m cni`. All verbs of CNI 1.1.0. Pure: the words of requests, networks, records. Every change
to a VF is written down on disk before it is made; its owner's DEL undoes it, or repair, once that owner has no
namespace any more.
"""

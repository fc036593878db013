"""Moves the VF that the kubelet allocated into a pod's network namespace, and brings it home again.

Depends on sriov. One handler for all verbs of CNI 1.1.0, two transports: the agent's unix socket (cni/shim is the
executable that the runtime calls) and `python -m cni`. Pure: the words of requests, results, networks and records.
Every change to a VF is written down before it is made; its owner's DEL undoes it, or repair, once that
owner has no namespace any more. What sriov-cni attached before is ended by its own files.
"""

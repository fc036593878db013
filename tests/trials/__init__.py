"""Trials of a CNI executable, ours or another that reads sriov-cni's configuration: what it loses under faults.

vfs says how a VF is and what can be wrong with it; pods are the network namespaces that VFs are for; storm and
kills are the trials. `python -m tests.trials` runs one where the VFs are: in the lab, on a cluster's node.
"""

"""The node's SR-IOV hardware and the admin's pools: what is there, what is wanted, how one becomes the other.

Knows PFs, VFs and pools; knows nothing of kubelet, pods or CNI, and imports none of the other packages. Its parts,
each of which imports none that is named after it: host, pools, diagnosis, provision, views, commands. All stand on
errors, pci and model. Only __main__ reads arguments and environment.
"""

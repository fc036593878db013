"""The node's SR-IOV hardware and the admin's pools: what is there, what is wanted, how one becomes the other.

Knows PFs, VFs and pools; of kubelet, pods and CNI no more than an agent's status says of them, and imports none
of the other packages. Its parts, each of which imports none that is named after it: host, pools, diagnosis,
provision, views, commands. All stand on errors, pci and model. status is what agent and command line say to each
other, clock its times, unixsocket how an agent's sockets are made, durable how files are written that must outlive
a crash, arguments what the arguments of the programs have in common. Only
__main__ reads arguments and environment.
"""

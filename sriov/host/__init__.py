"""What the node has: PFs, VFs, other NICs and accelerators, and what the node itself needs them for.

Kernel adapters, each thin and alone with its library: sysfs (files; it scans by scan and rdma), netlink (pyroute2)
and devlink over nlsocket, ethtool, bpf, linkevents, udev (pyudev). discovery joins what they tell to one look at
the node. packages remembers what only firmware knows; knownfile, over a restart, what is known of netdevs in pods.
What netlink's bytes mean is in pure modules: nlattr, linkinfo, routes, ties.
"""

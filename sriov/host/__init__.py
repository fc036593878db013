"""What the node has: PFs, VFs, other NICs and accelerators, and what the node itself needs them for.

Kernel adapters, each thin and alone with its library: sysfs (files; it scans by scan and rdma), netlink (pyroute2)
and devlink over nlsocket, udev (pyudev). discovery joins what they tell to one look at the node; knownfile keeps
what is known of netdevs in pods over a restart. What netlink's bytes mean is in pure modules: nlattr, linkinfo,
routes, ties.
"""

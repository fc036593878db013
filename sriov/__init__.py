"""The node's SR-IOV hardware and the admin's pools: values, kernel adapters, pool file, plans, `vfpool`.

Knows PFs, VFs and pools; knows nothing of kubelet, pods or CNI, and imports none of the other packages.
Most modules are pure; tests/test_architecture.py names them. Kernel adapters, each thin and alone with its
library: sysfs (files; it scans by scan and rdma), netlink (pyroute2) and devlink over nlsocket, udev (pyudev).
discovery joins what they tell to one look at the node; knownfile keeps what is known of it over a restart.
Only yamlnodes (with places) and output (documents) import yaml. Only __main__ reads arguments and environment;
what each command does is in commands.
"""

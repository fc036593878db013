"""The node's SR-IOV hardware and the admin's pools: values, kernel adapters, pool file, plans, `vfpool`.

Knows PFs, VFs and pools; knows nothing of kubelet, pods or CNI, and imports none of the other packages.
Pure: errors, pci, model, pools, plan, report. Kernel adapters, each thin and alone with its library:
sysfs (files), netlink (pyroute2), udev (pyudev). Only yamlnodes imports yaml. Only __main__ reads
arguments and environment.
"""

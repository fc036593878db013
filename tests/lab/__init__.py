"""The lab: a QEMU VM with emulated SR-IOV NICs, for tests, the demo and benchmarks.

`python -m tests.lab` on the command line, `@pytest.mark.lab` in tests. topology is pure; host says what
this machine lacks; image builds the guest's Debian once per recipe, progress tells of it; accel chooses
KVM or emulation; disk packs folders into disks; channel is the way in (ssh); console is what QEMU says;
machine joins them; plugin and reporter carry pytest across. demo, demo_node and story are `make demo`.
"""

"""The words by which an admin has a step that is refused otherwise: one for each kind of harm, none for all."""

from __future__ import annotations

from enum import StrEnum


class Override(StrEnum):
    """A VF that a process has open through vfio has no word: unbinding or removing it would hang in the kernel
    until that process closes it."""

    DISTURB_VFS = "disturb-vfs"       # steps that all VFs of a PF notice, idle ones too
    IN_USE = "in-use"                 # VFs are taken from the pods that have them
    TIED = "tied"                     # the node itself needs the NIC
    CLAIMED = "claimed"               # another program's configuration makes the PF's VFs
    ADOPT = "adopt"                   # the VFs were made by somebody else


# What a pool file may say. An agent reads it again and again: pods are not to lose their VFs to a file.
LASTING = tuple(each for each in Override if each is not Override.IN_USE)

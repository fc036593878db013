"""The keys of a network configuration, and which of them may be in any case."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# What a runtime hands to a plugin of what a NAD's author wrote.
_WRITTEN_KEYS = ("cniVersion", "name", "type", "ipam", "dns", "capabilities", "runtimeConfig", "args")
# libcni itself adds the first, in this case, and looks for the others, of a list of plugins, in this case only.
STANDARD_KEYS = (*_WRITTEN_KEYS, "prevResult", "plugins", "disableCheck", "disableGC")
OUR_KEYS = ("deviceID", "pciBusID", "vlan", "vlanQoS", "vlanProto", "mac", "mtu", "spoofchk", "trust", "link_state",
            "min_tx_rate", "max_tx_rate", "logLevel", "logFile")
# What sriov-cni reads in a section.
_SECTION_KEYS = {"ipam": ("type",), "runtimeConfig": ("mac",)}


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether the network is of `type: vfpool`, in which a key in another case is a mistake."""
    return bool(_fold(config, ("type",)).get("type") == "vfpool")


def fold_case(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with known keys as they are spelt here, where it is not ours; the exact one wins.

    sriov-cni and IPAM plugins take them in any case, as Go's JSON decoder does, and libcni `type`, `capabilities`
    and `ipam.type`. A runtime adds `name`, `cniVersion` and `runtimeConfig` in the exact case.
    """
    if is_ours(config):
        return dict(config)
    folded = _fold(config, (*_WRITTEN_KEYS, *OUR_KEYS))
    return folded | {key: _fold(section, known) for key, known in _SECTION_KEYS.items()
                     if isinstance(section := folded.get(key), dict)}


def _fold(config: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    names = {key.lower(): key for key in known}
    folded = {names.get(key.lower(), key): value for key, value in config.items()}
    return folded | {key: value for key, value in config.items() if key in known}

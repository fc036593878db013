"""Malformed network configurations, environments and results, made of well-formed ones.

The same of the same seed.
A document is changed as a list of JSON tokens, so that most of them are JSON still, and the harder half of them as
bytes. Among the values are those that parsers break on: numbers without end, lone surrogates, depth, NUL.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[\d.]+(?:[eE][-+]?\d+)?|true|false|null|[\[\]{},:]')

ADD = {
    "cniVersion": "1.0.0", "name": "net", "type": "vfpool", "deviceID": "0000:3b:02.1", "vlan": 100, "vlanQoS": 3,
    "vlanProto": "802.1ad", "mac": "02:00:00:00:00:01", "mtu": 1500, "spoofchk": "on", "trust": "off",
    "link_state": "auto", "min_tx_rate": 1, "max_tx_rate": 100, "logLevel": "debug",
    "capabilities": {"mac": True, "ips": True}, "args": {"cni": {"mac": "02:00:00:00:00:02"}},
    "runtimeConfig": {"mac": "02:00:00:00:00:03", "deviceID": "0000:3b:02.1", "ips": ["10.0.0.2/24", "fd00::2/64"],
                      "bandwidth": {"egressRate": 8_000_000, "egressBurst": 1_000_000}},
    "ipam": {"type": "fake", "ranges": [[{"subnet": "10.0.0.0/24"}]]}, "dns": {"nameservers": ["10.0.0.1"]},
}
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/c1", "mtu": 1500}],
    "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0}, {"address": "fd00::2/64"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "table": 5, "scope": 0, "priority": 1}],
    "dns": {"domain": "example", "search": ["a"]},
}
OLD_RESULT = {"cniVersion": "0.2.0", "dns": {}, "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1",
                                                        "routes": [{"dst": "0.0.0.0/0"}]}}
ERROR = {"cniVersion": "1.0.0", "code": 11, "msg": "no address is free", "details": "10.0.0.0/24"}
VALID = {
    "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}, {"containerID": "c2", "ifname": "x"}],
    "cni.dev/attachments": [],
}
CONFIGS = (
    ADD, {**ADD, "prevResult": RESULT}, {**ADD, "type": "sriov", "Trust": "on", "prevResult": RESULT},
    {**ADD, "cniVersion": "0.2.0", "prevResult": OLD_RESULT}, {**ADD, "cniVersion": "1.1.0", **VALID},
    {"cniVersion": "1.1.0", "name": "net", "type": "vfpool", "ipam": {"type": "fake"}, **VALID},
    {"cniVersion": "1.1.0", "name": "net", "type": "vfpool", "prevResult": {**RESULT, "cniVersion": "1.1.0"}},
    {"cniVersion": "1.0.0", "name": "net", "deviceID": "0000:3b:02.1", "prevResult": RESULT},
)
ENVIRONMENT = {
    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "net1",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;MAC=02:00:00:00:00:04",
}
_COMMANDS = ("ADD", "ADD", "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

# As they stand in a document.
_NO_JSON = (
    *("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "00", "+1", "0x10", "'a'", "undefined", "[", "]", "{"),
    *('"', "9" * 4301, "[" * 1000 + "]" * 1000, "[" * 100_000, '{"a":[' * 100_000, '"\x00"', "\0", '"\ud800"'),
)
_VALUES = (
    *("null", "true", "false", "0", "-1", "1", "1.5", "-0", "1e5", "1e-999", "4294967296", "9223372036854775808"),
    *("18446744073709551616", "-99999999999999999999"),
    *('""', '" "', '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\n"', '"é"'),
    *('"١"', '"../../x"', '"a/b"', '"%s%n"', '"on"', '"ON"', '"dhcp"', '"fake"', '"."', '".."', '"net1"', '"c1"'),
    *('"10.0.0.1"', '"10.0.0.1/33"', '"10.0.0.1/-1"', '"10.0.0.1/255.0.0.0"', '"::1%eth0/64"', '"::/0"'),
    *('"10.0.0.1/٣"', '"02:00:00:00:00:01"', '"ff:ff:ff:ff:ff:ff"', '"0000:3b:02.1"', '"ffff:ff:1f.7"'),
    *('"0000:3b:02.1\\n"', '"1.1.0"'),
    *("[]", "{}", "[{}]", "[null]", "[[]]", '{"":""}', '{"type":null}', '{"a":1,"a":2}'),
    '{"\\ud800":"\\ud800"}',
    *('[{"containerID":1}]', '{"name":"net1","sandbox":[]}', '{"address":[]}', '{"dst":{}}'),
)
_LARGE = (
    "1" + "0" * 4000, "0." + "1" * 5000, f'"{"x" * 300}"', f'"{"x" * 70_000}"',
    "[" * 90 + "]" * 90, "[" * 95 + "]" * 95, "[" * 500 + "]" * 500, "[" * 950 + "]" * 950, "[" * 990 + "]" * 990,
    '{"a":' * 97 + "1" + "}" * 97, '{"a":' * 930 + "1" + "}" * 930, f"[{'null,' * 500}1]",
    "{" + ",".join(f'"k{number}":{number}' for number in range(300)) + "}", f'["{"é" * 10_000}"]',
)
_HUGE = (f'"{"é" * 1_000_000}"', f"[{'1,' * 500_000}1]")
_BYTES = (b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b'"', b"\\", b"\xef\xbb\xbf")
_WORDS = (
    "", "c1", "net1", "eth0", "..", ".", "/", "a/b", "a b", "x" * 16, "x" * 300, "é", "\udcff", "\n", "\x01", "=",
    ";", ";;;", "MAC", "MAC=", "=x", "MAC=1=2", "IgnoreUnknown=true", "K8S_POD_NAME=\ud7ff", "\u2028", "%", "-",
    "c" * 5000, "/proc/self/ns/net", "IP=10.0.0.1", "٣",
)


class Mutator:
    """Everything that it gives follows from `seed`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        documents = (*CONFIGS, RESULT, OLD_RESULT, ERROR)
        self._tokens = {id(document): _TOKEN.findall(json.dumps(document)) for document in documents}

    def config(self) -> bytes:
        return self._document(CONFIGS)

    def result(self) -> bytes:
        """What an IPAM plugin says."""
        return self._document((RESULT, RESULT, OLD_RESULT, ERROR))

    def environment(self) -> dict[str, str]:
        """Text as the environment has it: bytes that are not UTF-8 as lone surrogates."""
        chance = self._random
        env = {**ENVIRONMENT, "CNI_COMMAND": chance.choice(_COMMANDS)}
        for _ in range(chance.choice((0, 0, 0, 0, 1, 1, 2))):
            key = chance.choice((*ENVIRONMENT, "CNI_PATH", "CNI_ARGS", "CNI_ARGS", "CNI_X", ""))
            if chance.random() < 0.2:
                env.pop(key, None)
            else:
                env[key] = "".join(chance.choices((*_WORDS, env.get(key, "")), k=chance.choice((1, 1, 2, 3))))
        return env

    def damage(self, data: bytes) -> bytes:
        """A few bytes or pieces of it otherwise."""
        chance, changed = self._random, bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(changed) + 1)
            end = min(len(changed), at + chance.choice((1, 1, 2, 8, 64)))
            match chance.randrange(6):
                case 0:
                    del changed[at:]
                case 1:
                    del changed[at:end]
                case 2:
                    changed[at:at] = changed[at:end] * chance.choice((1, 2, 100))
                case 3:
                    changed[at:at] = chance.choice(_BYTES)
                case 4:
                    changed[at:end] = chance.randbytes(end - at)
                case 5 if at < len(changed):
                    changed[at] ^= 1 << chance.randrange(8)
        return bytes(changed)

    def _document(self, documents: Sequence[Mapping[str, object]]) -> bytes:
        chance = self._random
        tokens = list(self._tokens[id(chance.choice(documents))])
        for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            self._change(tokens)
        data = "".join(tokens).encode("utf-8", "surrogatepass")
        return self.damage(data) if chance.random() < 0.08 else data

    def _change(self, tokens: list[str]) -> None:
        chance = self._random
        at = chance.randrange(len(tokens) + 1)
        kind, = chance.choices((_VALUES, _NO_JSON, _LARGE, _HUGE), (800, 80, 50, 0.2))
        value = chance.choice(kind)
        values = [number for number, token in enumerate(tokens)
                  if token[0] not in "[]{},:" and tokens[number + 1 : number + 2] != [":"]]
        match chance.randrange(24):
            case 0:                                          # any token, a key too
                tokens[at : at + 1] = [value]
            case 1:
                del tokens[at : at + chance.choice((1, 2, 4))]
            case 2:                                          # the same again: a key twice, a list that grows
                tokens[at:at] = tokens[at : at + chance.choice((2, 4, 8))]
            case 3 | 4 | 5 if "{" in tokens:                 # a key more
                at = chance.choice([n for n, token in enumerate(tokens) if token == "{"])
                key = chance.choice([token for token in (*tokens, '"x"', '""', '"\\ud800"') if token[0] == '"'])
                tokens[at + 1 : at + 1] = [key, ":", value, ","]
            case 6 | 7 | 8 if "{" in tokens:                 # a value that is an object or a list, as a whole
                at = chance.choice([n for n, token in enumerate(tokens) if token in "[{"])
                tokens[at : _end(tokens, at)] = [value]
            case _ if values:
                tokens[chance.choice(values)] = value


def _end(tokens: list[str], at: int) -> int:
    """Behind the bracket that closes the one at `at`, or the last token."""
    depth = 0
    for number in range(at, len(tokens)):
        depth += (tokens[number] in "[{") - (tokens[number] in "]}")
        if depth == 0:
            return number + 1
    return len(tokens)

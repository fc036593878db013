"""CNI requests and errors: what each verb needs, in which order it is checked, and no input without an answer."""

import errno
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.netconf import find_ipam
from cni.protocol import (
    VERSIONS,
    CniError,
    Code,
    Command,
    PodRef,
    Request,
    describe_call,
    error_code,
    find_pod,
    format_error,
    parse_args,
    parse_request,
)
from sriov.errors import Gone, HostError, InputError, Refused, SriovError

ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "net1"}
CONFIG = {"cniVersion": "1.0.0", "name": "net", "type": "vfpool"}
SUPPORTED = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"

IFNAME_WORDS = "1 to 15 bytes of UTF-8 without slash, colon, percent sign or white space"


def request(config=None, **env):
    """The request of an ADD with these variables; None takes one away."""
    environment = {key: value for key, value in {**ENV, **env}.items() if value is not None}
    return parse_request(environment, json.dumps(CONFIG if config is None else config).encode())


def refusal(call, *args, **kwargs):
    with pytest.raises(CniError) as caught:
        call(*args, **kwargs)
    return int(caught.value.code), caught.value.message


# ---- requests -------------------------------------------------------------------------------------------


def test_request():
    stdin = b' {"cniVersion": "0.4.0", "name": "net.1", "type": "vfpool", "vlan": 3} '
    env = {**ENV, "CNI_ARGS": "IgnoreUnknown=true;MAC=a;MAC=b", "CNI_PATH": "/opt/cni/bin"}
    assert parse_request(env, stdin) == Request(
        command=Command.ADD, container_id="c1", netns="/run/netns/c1", ifname="net1",
        args={"IgnoreUnknown": "true", "MAC": "b"}, environment=env, version="0.4.0", network="net.1",
        config={"cniVersion": "0.4.0", "name": "net.1", "type": "vfpool", "vlan": 3}, stdin=stdin)


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_keys_in_any_case_for_every_verb(command):
    given = {"CniVersion": "1.1.0", "Name": "net", "type": "sriov", "IPAM": {"Type": "static"}, "Vlan": 3}
    made = request(given, CNI_COMMAND=command, CNI_PATH="/opt/cni/bin")
    assert (made.version, made.network, find_ipam(made.config)) == ("1.1.0", "net", "static")
    assert made.config == {
        "cniVersion": "1.1.0", "name": "net", "type": "sriov", "ipam": {"type": "static"}, "vlan": 3}
    own = {**CONFIG, "cniVersion": "1.1.0", "IPAM": {"type": "static"}}
    assert request(own, CNI_COMMAND=command, CNI_PATH="/opt/cni/bin").config == own


@pytest.mark.parametrize(("stdin", "problem"), [
    (b'{"mtu": NaN}', "NaN is no number of JSON"), (b'{"mtu": -Infinity}', "-Infinity is no number of JSON"),
    (b'{"mtu": 1e999}', "'1e999' is too large a number"),
    (b'{"a":' * 101 + b"1" + b"}" * 101, "nested more than 100 deep"),
    (b"[" * 100_000, "nested more than 100 deep"), (b'{"a":' + b"9" * 4301 + b"}", "Exceeds the limit"),
])
def test_what_could_not_be_handed_on_is_no_json(stdin, problem):
    code, message = refusal(parse_request, ENV, stdin)
    assert (code, message.partition(": ")[0]) == (6, "network configuration")
    assert problem in message
    deepest = json.dumps(CONFIG).encode()[:-1] + b', "a":' + b"[" * 98 + b"]" * 98 + b"}"
    assert parse_request(ENV, deepest).config["a"]


@pytest.mark.parametrize("version", ["1" * 32, "é", "1.0\n", 1, None, ""])
def test_version_that_is_not_echoed(version):
    stdin = json.dumps({"cniVersion": version}).encode()
    assert parse_request({"CNI_COMMAND": "VERSION"}, stdin).version == "1.1.0"


def test_nobody_writes_a_line_of_the_log_by_a_name():
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c\n1", "CNI_IFNAME": "x" * 1000}
    assert describe_call(env) == f"ADD 'c\\n1' {'x' * 100!r}..."


def test_del_needs_no_netns_and_reads_no_args():
    made = request(CNI_COMMAND="DEL", CNI_NETNS=None, CNI_ARGS="broken")
    assert (made.command, made.netns, made.args, made.attachment) == (Command.DEL, "", {}, ("c1", "net1"))


@pytest.mark.parametrize("value", [None, "", "add", "UPDATE", "ADD "])
def test_command(value):
    assert refusal(request, CNI_COMMAND=value) == (
        4, f"CNI_COMMAND: expected one of ADD, DEL, CHECK, GC, STATUS, VERSION, got {value or ''!r}")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_verbs_of_no_container(command):
    config = {**CONFIG, "cniVersion": "1.1.0"}
    made = request(config, CNI_COMMAND=command, CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None)
    assert (made.command, made.network, made.container_id) == (Command(command), "net", "")
    assert refusal(request, {**config, "name": "a/b"}, CNI_COMMAND=command)[0] == 7


@pytest.mark.parametrize(("command", "first"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_verbs_that_came_later(command, first):
    for version in VERSIONS:
        config = {**CONFIG, "cniVersion": version}
        if VERSIONS.index(version) < VERSIONS.index(first):
            assert refusal(request, config, CNI_COMMAND=command) == (
                1, f"cniVersion: {version} has no {command}, which came with {first}")
        else:
            assert request(config, CNI_COMMAND=command).command == command


@pytest.mark.parametrize(("command", "missing"), [
    ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]), ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME"]),
    ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])])
def test_all_missing_variables_are_named_at_once(command, missing):
    for absent in (None, ""):
        everything = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), absent)
        assert refusal(request, CNI_COMMAND=command, **everything) == (
            4, f"{command} needs {', '.join(missing)}: not set")
    for one in missing:
        assert refusal(request, CNI_COMMAND=command, **{one: None}) == (4, f"{command} needs {one}: not set")


@pytest.mark.parametrize("stdin", [b"", b"{", b"{}x", b"\xff\xfe\x00", b"[1", b'{"a": ' + b"9" * 5000 + b"}",
                                   b"[" * 100_000])
def test_what_is_not_json(stdin):
    code, message = refusal(parse_request, ENV, stdin)
    assert code == 6
    assert message.startswith("network configuration: not JSON: ")


@pytest.mark.parametrize(("config", "kind"), [([], "list"), ("x", "str"), (3, "int"), (None, "NoneType")])
def test_json_that_is_no_object(config, kind):
    assert refusal(parse_request, ENV, json.dumps(config).encode()) == (
        6, f"network configuration: expected a JSON object, got {kind}")


@pytest.mark.parametrize("value", ["-c", "c/1", "c 1", "c\n", "é", "..", "\udcff"])
def test_container_id(value):
    assert refusal(request, CNI_CONTAINERID=value) == (
        4, f"CNI_CONTAINERID: expected letters, digits, dots, dashes and underscores, got {value!r}")


@pytest.mark.parametrize("value", [
    ".", "..", "a/b", "a:b", "a b", "a\t", "sixteen-letters-", "é" * 8, "\udcff", "a\0"])
def test_interface_name(value):
    """The kernel holds 15 bytes (IFNAMSIZ), not characters."""
    assert refusal(request, CNI_IFNAME=value) == (
        4, f"CNI_IFNAME: expected {IFNAME_WORDS}, got {value!r}")


@pytest.mark.parametrize("value", ["net1", "fifteen-letters", "...", ".a", "é" * 7])
def test_interface_names_that_the_kernel_takes(value):
    assert request(CNI_IFNAME=value).ifname == value


@pytest.mark.parametrize("name", ["", None, 3, ["net"], {}, "a/b", "-a", "a b", "net\n"])
def test_network_name(name):
    code, message = refusal(request, {**CONFIG, "name": name})
    assert code == 7
    assert message.startswith("network configuration: name: expected letters, digits, dots, dashes and underscores")


def test_network_name_is_needed():
    assert refusal(request, {"cniVersion": "1.0.0"})[0] == 7


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version(version):
    assert request({**CONFIG, "cniVersion": version}).version == version


@pytest.mark.parametrize("config", [
    {"name": "net"}, {"name": "net", "cniVersion": ""}, {"name": "net", "cniVersion": None}])
def test_no_version_is_the_oldest(config):
    assert request(config).version == "0.1.0"


@pytest.mark.parametrize(("version", "shown"), [
    ("2.0.0", "'2.0.0'"), ("1.0", "'1.0'"), (1, "1"), (0, "0"), (False, "false"), ([], "a list"),
    (["1.0.0"], "a list"), ({}, "an object"), ("x" * 5000, f"{'x' * 100!r}...")])
def test_version(version, shown):
    assert refusal(request, {**CONFIG, "cniVersion": version}) == (
        1, f"cniVersion: {shown} is not supported (supported: {SUPPORTED})")


def test_the_order_of_checks():
    """Environment, JSON, names, version, arguments: of several mistakes the first of these is reported."""
    env = dict(ENV, CNI_COMMAND="NO", CNI_NETNS="", CNI_CONTAINERID="/", CNI_IFNAME="/", CNI_ARGS="x")
    stdin = b"{"
    codes = []
    for mend in ({"CNI_COMMAND": "ADD"}, {"CNI_NETNS": "/x"}, b'{"cniVersion": "9"}', {"CNI_CONTAINERID": "c1"},
                 {"CNI_IFNAME": "net1"}, b'{"cniVersion": "9", "name": "net"}', b'{"name": "net"}',
                 {"CNI_ARGS": ""}):
        code, message = refusal(parse_request, env, stdin)
        codes.append((code, message.split(":")[0]))
        env, stdin = (env | mend, stdin) if isinstance(mend, dict) else (env, mend)
    assert codes == [(4, "CNI_COMMAND"), (4, "ADD needs CNI_NETNS"), (6, "network configuration"),
                     (4, "CNI_CONTAINERID"), (4, "CNI_IFNAME"), (7, "network configuration"), (1, "cniVersion"),
                     (4, "CNI_ARGS")]
    assert parse_request(env, stdin).version == "0.1.0"


@pytest.mark.parametrize("stdin", [b'{"cniVersion": "0.4.0"}', b'{"cniVersion": "9.9.9"}', b"{}", b"", b"garbage"])
def test_version_is_answered_whatever_the_caller_speaks(stdin):
    """A runtime that is newer than we are asks in its own version: that is what VERSION is for."""
    made = parse_request({"CNI_COMMAND": "VERSION"}, stdin)
    assert made.command is Command.VERSION
    assert made.version == (stdin[16:21].decode() if b"cniVersion" in stdin else "1.1.0")


# ---- CNI_ARGS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "args"), [
    ("", {}), ("MAC=02:00:00:00:00:01", {"MAC": "02:00:00:00:00:01"}), ("A=1;B=2;A=3", {"A": "3", "B": "2"}),
    ("A=", {"A": ""}), ("A=1;", {"A": "1"}), (";;A=1", {"A": "1"})])
def test_args(text, args):
    assert parse_args(text) == args


@pytest.mark.parametrize(("text", "pair"), [
    ("A", "A"), ("=1", "=1"), ("A=1;B", "B"), ("A=1=2", "A=1=2"), ("=", "=")])
def test_args_that_are_no_pairs(text, pair):
    assert refusal(parse_args, text) == (
        4, f"CNI_ARGS: expected KEY=VALUE pairs between semicolons, got {pair!r}")
    assert refusal(request, CNI_ARGS=text)[0] == 4


@given(st.dictionaries(st.text(st.characters(exclude_characters=";="), min_size=1),
                       st.text(st.characters(exclude_characters=";="))))
def test_args_survive_formatting(args):
    assert parse_args(";".join(f"{key}={value}" for key, value in args.items())) == args


# ---- any input is answered --------------------------------------------------------------------------------


texts = st.text(st.characters(codec=None), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8)
environments = st.dictionaries(
    st.sampled_from([*ENV, "CNI_ARGS", "CNI_PATH"]),
    st.sampled_from([*ENV.values(), "DEL", "CHECK", "GC", "STATUS", "VERSION", "MAC=1", ""]) | texts)
configs = st.fixed_dictionaries({}, optional={
    "cniVersion": st.sampled_from(VERSIONS) | json_values, "name": st.just("net") | json_values,
    "ipam": json_values, "runtimeConfig": json_values, "type": json_values})
stdins = (st.binary() | configs.map(lambda config: json.dumps(config).encode())
          | json_values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")))


def outcome(call, *args):
    try:
        return call(*args)
    except CniError as error:
        document = format_error(error, "1.1.0")
        assert json.loads(json.dumps(document)) == document
        return error


@given(st.just(ENV) | environments, environments, stdins)
def test_any_call_is_a_request_or_an_error_document(env, changes, stdin):
    result = outcome(parse_request, env | changes, stdin)
    if isinstance(result, Request):
        assert result.command is Command.VERSION or result.version in VERSIONS
        assert result.command in set(Command)
    else:
        assert result.code in (1, 4, 6, 7)


@pytest.mark.parametrize("key", ["cniVersion", "name", "vlan"])
def test_no_depth_of_nesting_is_too_much(key):
    """Around what the JSON parser still takes, printing the value would take more than there is."""
    for depth in range(700, 1000):
        config = {**CONFIG, key: "VALUE"}
        stdin = json.dumps(config).replace('"VALUE"', "[" * depth + "]" * depth).encode()
        outcome(parse_request, ENV, stdin)


# ---- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "code"), [
    (CniError(11, "x"), 11), (InputError("x"), Code.INVALID_CONFIG), (Refused("x"), Code.REFUSED),
    (HostError("x", errno=errno.EINVAL), Code.HOST_REFUSED),
    (HostError("x", errno=errno.EBUSY), Code.TRY_AGAIN_LATER), (Gone("x"), Code.GONE),
    (SriovError("x"), Code.FAILED)])
def test_codes(error, code):
    assert error_code(error) == code


def test_error_document():
    assert format_error(HostError("cannot set trust", errno=22), "0.4.0") == {
        "cniVersion": "0.4.0", "code": 100, "msg": "cannot set trust: EINVAL"}


def test_hint_and_notes_are_details():
    error = CniError(Code.TRY_AGAIN_LATER, "no agent", hint="start it")
    error.add_note("undo failed: x")
    assert format_error(error, "1.0.0") == {
        "cniVersion": "1.0.0", "code": 11, "msg": "no agent", "details": "hint: start it; undo failed: x"}


def test_no_input_makes_an_error_document_too_long_for_the_socket():
    error = CniError(Code.INVALID_CONFIG, "m" * 5_000_000, hint="h" * 5_000_000)
    document = format_error(error, "1.0.0")
    assert len(json.dumps(document)) < 100_000
    assert document["msg"].startswith("mmm")
    assert document["msg"].endswith("...")


@pytest.mark.parametrize(("args", "pod"), [
    ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0", PodRef(namespace="shop", name="cart-0")),
    ("IgnoreUnknown=true;K8S_POD_NAME=a.b;K8S_POD_NAMESPACE=default;K8S_POD_UID=u;MAC=02:00:00:00:00:01",
     PodRef(namespace="default", name="a.b", uid="u")),
    ("K8S_POD_NAME=a", None), ("K8S_POD_NAMESPACE=a", None), ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=", None),
    ("", None), (";;=;x", None),
    ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b\nfaked: line", None), ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=../b", None),
    (f"K8S_POD_NAMESPACE=a;K8S_POD_NAME={'b' * 254}", None)])
def test_the_pod_of_a_call(args, pod):
    assert find_pod({"CNI_ARGS": args}) == pod


def test_a_call_without_arguments_has_no_pod():
    assert find_pod({}) is None

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tests.e2e.pki import Authority, KeyPair


@pytest.fixture
def authority(tmp_path):
    return Authority.make(tmp_path / "pki")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify_client(authority: Authority, pair: KeyPair) -> None:
    verifier = PolicyBuilder().store(Store([load(authority.certificate)])).build_client_verifier()
    verifier.verify(load(pair.certificate), [])


def test_user_and_groups_are_common_name_and_organizations(authority):
    pair = authority.issue("kubelet", common_name="system:node:a", organizations=["system:nodes", "b"])
    subject = load(pair.certificate).subject
    assert [part.value for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:a"]
    assert [part.value for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == [
        "system:nodes", "b"]


def test_certificate_without_hosts_is_for_clients_only(authority):
    certificate = load(authority.issue("user", common_name="user").certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_hosts_are_addresses_or_names(authority):
    pair = authority.issue("server", common_name="server", hosts=("127.0.0.1", "fd00::1", "localhost"))
    names = load(pair.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("fd00::1")]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_client_certificate_verifies_against_its_own_authority_only(authority, tmp_path):
    pair = authority.issue("user", common_name="user", hosts=("localhost",))
    verify_client(authority, pair)
    with pytest.raises(VerificationError):
        verify_client(Authority.make(tmp_path / "other"), pair)


def test_certificate_is_valid_for_a_clock_that_is_behind(authority):
    certificate = load(authority.issue("user", common_name="user").certificate)
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now - datetime.timedelta(minutes=30)
    assert certificate.not_valid_after_utc > now + datetime.timedelta(days=1)


def test_private_keys_are_readable_by_their_owner_only(authority):
    pair = authority.issue("user", common_name="user")
    assert pair.key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in authority.certificate.read_bytes() + pair.certificate.read_bytes()


def test_certificate_can_be_issued_again(authority):
    first = load(authority.issue("user", common_name="user").certificate)
    again = load(authority.issue("user", common_name="user").certificate)
    assert first.serial_number != again.serial_number
    assert len(list(authority.certificate.parent.glob("*.key"))) == 1


@pytest.mark.parametrize(("host", "accepted"), [("127.0.0.1", True), ("localhost", True), ("10.0.0.1", False)])
def test_handshake(authority, host, accepted):
    """OpenSSL's strict checks on both sides; a host that the certificate does not name is refused."""
    server_pair = authority.issue("server", common_name="server", hosts=("127.0.0.1", "localhost"))
    client_pair = authority.issue("client", common_name="alice", organizations=["staff"])
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(authority.certificate))
    for context, pair in ((server, server_pair), (client, client_pair)):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(pair.certificate, pair.key)
    if not accepted:
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            shake_hands(server, client, host)
        return
    peer = shake_hands(server, client, host)
    assert peer is not None
    assert peer["subject"] == ((("organizationName", "staff"),), (("commonName", "alice"),))


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str):
    """TLS in memory; what the server knows of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server, server_hostname=host),
            server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].getpeercert()

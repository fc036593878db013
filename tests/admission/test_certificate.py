"""The webhook's certificate: what is no good is told in one line; out of its dates is a warning."""

from __future__ import annotations

import datetime
import logging
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from admission.certificate import Certificate
from admission.validity import read_validity
from sriov.errors import InputError
from tests.e2e import pki
from tests.e2e.pki import Authority, KeyPair, make_key

GONE = "No such file or directory"
DAMAGED = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def pair(authority, tmp_path):
    made = issue(authority)
    certificate, key = (Path(shutil.copy(path, tmp_path)) for path in (made.certificate, made.key))
    return KeyPair(certificate=certificate, key=key)


def issue(authority: Authority, name: str = "server") -> KeyPair:
    return authority.issue(name, common_name="webhook", hosts=("127.0.0.1",))


def refusal(pair: KeyPair) -> str:
    with pytest.raises(InputError) as caught:
        Certificate(pair.certificate, pair.key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_missing_or_cannot_be_read_is_named(pair, tmp_path):
    assert refusal(KeyPair(certificate=tmp_path, key=pair.key)) == f"cannot read {tmp_path}: Is a directory"
    for path in (pair.key, pair.certificate):
        path.unlink()
        assert refusal(pair) == f"cannot read {path}: {GONE}"


@pytest.mark.parametrize(("text", "got"), [
    ("", "an empty file"), ("\n", "an empty file"), ("hello\n", "something else"), ("\0\xff", "something else")])
def test_what_is_no_pem_is_named(pair, text, got):
    certificate = pair.certificate.read_text()
    pair.certificate.write_text(text)
    assert refusal(pair) == f"{pair.certificate}: expected a certificate in PEM form, got {got}"
    pair.certificate.write_text(certificate)
    pair.key.write_text(text)
    assert refusal(pair) == f"{pair.key}: expected a private key in PEM form, got {got}"


def test_two_files_the_wrong_way_round(pair):
    assert refusal(KeyPair(certificate=pair.key, key=pair.certificate)) == (
        f"{pair.key}: expected a certificate in PEM form, got a private key")
    assert refusal(KeyPair(certificate=pair.certificate, key=pair.certificate)) == (
        f"{pair.certificate}: expected a private key in PEM form, got a certificate")


def test_a_damaged_certificate(pair):
    for text in (DAMAGED, pair.certificate.read_text() + DAMAGED):
        pair.certificate.write_text(text)
        assert refusal(pair).startswith(f"{pair.certificate}: a certificate in it is damaged: ")
        assert "_ssl.c" not in refusal(pair)


def test_a_damaged_key(pair):
    pair.key.write_text("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
    assert refusal(pair).startswith(f"cannot use {pair.certificate} with {pair.key}: ")
    assert "_ssl.c" not in refusal(pair)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_not_asked_a_password_for(pair, form):
    pair.key.write_bytes(make_key().private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret")))
    assert refusal(pair).startswith(f"{pair.key}: the private key is encrypted (hint: openssl pkey ")


@pytest.mark.parametrize("other", [make_key, lambda: rsa.generate_private_key(65537, 2048)], ids=["P-256", "RSA"])
def test_the_key_of_another_certificate(pair, other):
    pair.key.write_bytes(other().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert refusal(pair).startswith(f"{pair.key} is not the key of the certificate in {pair.certificate} (hint: ")


@pytest.mark.parametrize(("lifetime", "skew", "what"), [
    (datetime.timedelta(minutes=-30), pki.CLOCK_SKEW, "expired on"),
    (pki.LIFETIME, datetime.timedelta(hours=-1), "is not good before")])
def test_out_of_its_dates_it_is_shown_with_one_warning(authority, monkeypatch, caplog, lifetime, skew, what):
    monkeypatch.setattr(pki, "LIFETIME", lifetime)
    monkeypatch.setattr(pki, "CLOCK_SKEW", skew)
    pair = issue(authority, "dated")
    parsed = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    date = parsed.not_valid_after_utc if lifetime < skew else parsed.not_valid_before_utc
    certificate = Certificate(pair.certificate, pair.key)
    for _ in range(3):
        certificate.refresh()
    (line,) = caplog.messages
    assert line == (f"the certificate of {pair.certificate} {what} {date:%Y-%m-%d %H:%M} UTC: "
                    "the API server will refuse it, and with it pods with networks")


def test_a_good_one_is_served_without_a_warning(pair, caplog):
    caplog.set_level(logging.INFO)
    Certificate(pair.certificate, pair.key)
    assert caplog.messages == [f"serving the certificate of {pair.certificate}"]


@pytest.mark.parametrize("years", [1, 60])      # UTCTime until 2049, GeneralizedTime from then on
def test_the_dates_are_the_certificate_s(authority, monkeypatch, years):
    monkeypatch.setattr(pki, "LIFETIME", datetime.timedelta(days=366 * years))
    parsed = x509.load_pem_x509_certificate(issue(authority, "dated").certificate.read_bytes())
    der = parsed.public_bytes(Encoding.DER)
    assert read_validity(der) == (parsed.not_valid_before_utc, parsed.not_valid_after_utc)
    for end in range(100):
        with pytest.raises(ValueError, match=r".+"):
            read_validity(der[:end])


def test_later_a_pair_that_is_no_good_is_logged_once_and_the_last_good_one_stays(authority, pair, caplog):
    other = issue(authority, "other")
    caplog.set_level(logging.INFO)
    certificate = Certificate(pair.certificate, pair.key)
    served = f"serving the certificate of {pair.certificate}"

    def look() -> list[str]:
        caplog.clear()
        for _ in range(3):
            certificate.refresh()
        return list(caplog.messages)

    assert look() == []
    shutil.copy(other.certificate, pair.certificate)
    (line,) = look()
    assert line.startswith(f"{pair.key} is not the key of the certificate in {pair.certificate} ")
    assert line.endswith("; the last good one stays")
    shutil.copy(other.key, pair.key)
    assert look() == [served]
    pair.key.unlink()
    assert look() == [f"cannot read {pair.key}: {GONE}; the last good one stays"]
    shutil.copy(other.key, pair.key)
    assert look() == [served]
    pair.key.unlink()
    assert look() == [f"cannot read {pair.key}: {GONE}; the last good one stays"]

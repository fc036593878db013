"""The server's TLS certificate: from two files, and anew whenever they change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from admission.validity import read_validity
from sriov.errors import InputError

log = logging.getLogger(__name__)

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN (?P<kind>[A-Z ]*)PRIVATE KEY-----")
_ENCRYPTED = re.compile(r"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
# OpenSSL's reasons; the last where the key is of another kind than every certificate.
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class Certificate:
    """Owner of what the server shows. Later a pair that is no good is logged once, and the last good one stays.

    InputError where the first pair is no good. One that is out of its dates is shown, with a warning: the clock may
    be what is wrong, and the API server has its own.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self._problem = ""
        self._seen = ""
        self._take(self._read())
        self._context = _make_context()
        # A running server keeps its context; at each handshake OpenSSL asks this which one to go on with.
        self._context.sni_callback = self._choose

    @property
    def context(self) -> ssl.SSLContext:
        """For the server."""
        return self._context

    def refresh(self) -> None:
        """Load the pair if the files' contents changed since the last look."""
        try:
            pems = self._read()
            if self._fingerprint(pems) != self._seen:
                self._take(pems)
        except InputError as error:
            if str(error) != self._problem:
                log.error("%s; the last good one stays", error)
            self._problem = str(error)
        self._warn_of_dates()

    async def keep_fresh(self, seconds: float = 3.0) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(seconds)

    def _read(self) -> tuple[bytes, bytes]:
        certificate, key = self._files
        try:
            return certificate.read_bytes(), key.read_bytes()
        except OSError as error:
            self._seen = ""         # what is back afterwards is worth a line, be it the same
            raise InputError(f"cannot read {error.filename}: {error.strerror}") from None

    def _take(self, pems: tuple[bytes, bytes]) -> None:
        self._seen = self._fingerprint(pems)
        certificate, key = self._files
        chain = _check_certificate(certificate, pems[0])
        _check_key(key, pems[1])
        context = _make_context()
        try:
            # Without a password, an encrypted key would be asked for on the terminal.
            context.load_cert_chain(certificate, key, password="-")
        except ssl.SSLError as error:
            if error.reason in _OTHER_KEY:
                raise InputError(f"{key} is not the key of the certificate in {certificate}",
                                 hint="give the two that were made together") from None
            raise InputError(f"cannot use {certificate} with {key}: {_reason(error)}") from None
        except OSError as error:
            raise InputError(f"cannot read {error.filename or key}: {error.strerror}") from None
        log.info("serving the certificate of %s", certificate)
        self._current, self._problem = context, ""
        self._dates = read_validity(ssl.PEM_cert_to_DER_cert(chain[0]))
        self._warned = False
        self._warn_of_dates()

    @staticmethod
    def _fingerprint(pems: tuple[bytes, bytes]) -> str:
        # By content: a mounted Secret changes by a swap of symlinks, and times may stay the same.
        return " ".join(hashlib.sha256(pem).hexdigest() for pem in pems)

    def _warn_of_dates(self) -> None:
        first, last = self._dates
        now = datetime.now(UTC)
        if first <= now <= last:
            self._warned = False
        elif not self._warned:
            self._warned = True
            what = f"expired on {last:%Y-%m-%d %H:%M} UTC" if now > last else \
                f"is not good before {first:%Y-%m-%d %H:%M} UTC"
            log.warning("the certificate of %s %s: the API server will refuse it, and with it pods with networks",
                        self._files[0], what)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def _check_certificate(path: Path, pem: bytes) -> list[str]:
    """The certificates of the file, the server's own first."""
    text = pem.decode("ascii", errors="replace")
    chain: list[str] = _CERTIFICATE.findall(text)
    if not chain:
        raise InputError(f"{path}: expected a certificate in PEM form, got {_describe(text)}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(chain))
    except ssl.SSLError as error:
        raise InputError(f"{path}: a certificate in it is damaged: {_reason(error)}") from None
    return chain


def _check_key(path: Path, pem: bytes) -> None:
    text = pem.decode("ascii", errors="replace")
    if _KEY.search(text) is None:
        raise InputError(f"{path}: expected a private key in PEM form, got {_describe(text)}")
    if _ENCRYPTED.search(text):
        raise InputError(f"{path}: the private key is encrypted", hint="openssl pkey -in FILE -out PLAIN_FILE")


def _describe(text: str) -> str:
    if not text.strip():
        return "an empty file"
    if _KEY.search(text):
        return "a private key"
    return "a certificate" if _CERTIFICATE.search(text) else "something else"


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's own words, without where in Python's source they came from."""
    return (error.reason or "OpenSSL gives no reason").replace("_", " ").lower()


def _make_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

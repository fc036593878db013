"""When a certificate is good: the one thing in it that Python's ssl does not tell of a certificate of one's own."""

from __future__ import annotations

from datetime import UTC, datetime

_VERSION = 0xA0             # [0] EXPLICIT, which certificates of version 1 leave out
_BEFORE_VALIDITY = 3        # serialNumber, signature, issuer
_UTC_TIME = 0x17
_LONG = 0x80                # of a length: the other bits count the bytes that hold it


def read_validity(der: bytes) -> tuple[datetime, datetime]:
    """notBefore and notAfter of a DER certificate that OpenSSL takes; ValueError for what is none.

    Source: RFC 5280, section 4.1.
    """
    try:
        at, _ = _enter(der, 0)              # Certificate
        at, _ = _enter(der, at)             # TBSCertificate
        for _ in range(_BEFORE_VALIDITY + (der[at] == _VERSION)):
            _, at = _enter(der, at)
        at, _ = _enter(der, at)             # Validity
        _, after = _enter(der, at)
        return _read_time(der, at), _read_time(der, after)
    except IndexError:
        raise ValueError("not a certificate: it ends too early") from None


def _enter(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends (X.690, section 8.1.3)."""
    length, start = der[at + 1], at + 2
    if length >= _LONG:
        size = length - _LONG
        length, start = int.from_bytes(der[start:start + size]), start + size
    return start, start + length


def _read_time(der: bytes, at: int) -> datetime:
    start, end = _enter(der, at)
    text = der[start:end].decode("ascii")
    if der[at] == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)

"""What can go wrong, as one tree; each edge (CNI, gRPC, exit status) translates it once.

    SriovError              root: a message and, where there is one, a hint
    ├── InputError          what a person or caller wrote is wrong (exit status 2)
    ├── Refused             right input, but doing it would harm: nothing was touched
    ├── HostError           the kernel or the file system said no, with errno
    └── Gone                a device, link or namespace that was there is not any more
"""

from __future__ import annotations

import errno as _errno


class SriovError(Exception):
    """An operation failed. `message` says operation, object, observed, allowed; `hint` the next action."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message} (hint: {self.hint})" if self.hint else self.message
        return "; ".join([text, *getattr(self, "__notes__", ())])


class InputError(SriovError):
    """Wrong input: a pool file, a network configuration, an argument."""


class Refused(SriovError):
    """The request is well formed, but carrying it out would harm something; nothing was changed."""


class HostError(SriovError):
    """The kernel refused: `errno` as it answered (0 where it only did not do what it was told)."""

    def __init__(self, message: str, *, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(f"{message}: {_errno.errorcode.get(errno, errno)}" if errno else message, hint=hint)
        self.errno = errno


class Gone(SriovError):
    """A device, link or network namespace does not exist (any more)."""

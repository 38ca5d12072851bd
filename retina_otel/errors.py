"""The exceptions of retina-otel. Each carries what a person needs: what failed, and the remedy.

RetinaError
├── ConfigError         the configuration is wrong: path of the key, what is wrong, the remedy
├── KernelError         a call into the kernel failed: errno, the call, the remedy
│   ├── LoadError       a BPF object was not loaded: also the tail of the verifier's log
│   ├── AttachError     a program was not attached
│   ├── MapError        a map was not read or written
│   └── RingError       a ring buffer was not mapped, or holds a record of a wrong length
└── DeliveryError       a backend did not take what was sent
"""

from __future__ import annotations

import errno as errno_names
import os


class RetinaError(Exception):
    """What failed in one line, and in `remedy` one sentence on what to do (may be empty)."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class ConfigError(RetinaError):
    """A configuration is refused. `path` is the key's dotted path, empty for the file itself."""

    def __init__(self, message: str, remedy: str = "", *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message, remedy)
        self.path = path


class KernelError(RetinaError):
    """A call into the kernel failed. `errno` is positive; `call` is named as by strace."""

    def __init__(self, call: str, errno: int, remedy: str = "", *, detail: str = "") -> None:
        name = errno_names.errorcode.get(errno, str(errno))
        what = f"{call}: {name} ({os.strerror(errno)})"
        super().__init__(f"{what}: {detail}" if detail else what, remedy)
        self.call = call
        self.errno = errno


class LoadError(KernelError):
    """A BPF object was refused. `log_tail` is the end of the verifier's log, empty if none."""

    def __init__(
        self, call: str, errno: int, remedy: str = "", *, detail: str = "", log_tail: str = ""
    ) -> None:
        super().__init__(call, errno, remedy, detail=detail)
        self.log_tail = log_tail

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{self.log_tail}" if self.log_tail else text


class AttachError(KernelError):
    """A program could not be attached to its hook."""


class MapError(KernelError):
    """A BPF map could not be read, written or mapped into memory."""


class RingError(KernelError):
    """A ring buffer could not be mapped, or holds what its record type cannot explain."""


class DeliveryError(RetinaError):
    """A backend did not take a request. `retry_after_s` is set where trying again makes sense."""

    def __init__(
        self, message: str, remedy: str = "", *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, remedy)
        self.retry_after_s = retry_after_s


def cannot_listen(endpoint: str, key: str, error: OSError) -> ConfigError:
    """The error of a server that gets no socket; `key` is where its endpoint is configured."""
    remedies = {
        errno_names.EADDRINUSE: "Stop what listens there (`ss -ltnp` names it), or set another "
        "endpoint",
        errno_names.EADDRNOTAVAIL: "No interface here has that address: set another endpoint",
        errno_names.EACCES: "Give the process CAP_NET_BIND_SERVICE, or set a port above 1023",
    }
    remedy = remedies.get(error.errno or 0, "Set another endpoint")
    what = error.strerror or str(error)
    return ConfigError(f"{endpoint} can't be listened on: {what}", f"{remedy}: {key}")

"""Where the compiled BPF objects are: package data, one directory per architecture."""

from __future__ import annotations

import errno
import platform
from pathlib import Path

from retina_otel.errors import LoadError

_ROOT = Path(__file__).resolve().parent.parent / "_bpf"


def path(name: str) -> str:
    """The file of object `name` ("flows") for this machine. Raises LoadError if it is not there."""
    found = _ROOT / platform.machine() / f"{name}.bpf.o"
    if not found.is_file():
        raise LoadError(
            "open",
            errno.ENOENT,
            "Build the BPF objects (make objects), or install a wheel for this architecture",
            detail=f"{name}.bpf.o for {platform.machine()}",
        )
    return str(found)

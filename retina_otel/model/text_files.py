"""Text files that a person names: read whole, up to a bound, and never waited for.

A path may lead to anything, also to what never ends or never begins (/dev/zero, a named pipe).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 16 << 20
"""Entries of some 100,000 pods."""


def read_text(path: Path) -> str:
    """Raises OSError, also if it is no regular file or too large, and UnicodeDecodeError."""
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)

"""The directory of a spool: one owner at a time, nobody else's to write, and the cursor in it.

The lock is the directory's own, so that it takes no room on a full disk and ends with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from retina_otel.delivery.spool.segments import sync_directory
from retina_otel.errors import ConfigError

_CURSOR = struct.Struct("<QQ")
_CRC = struct.Struct("<I")


def own(directory: Path) -> int:
    """Locks the directory, made if it is not there, for as long as the descriptor is open."""
    try:
        made = [each for each in (directory, *directory.parents) if not each.exists()]
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
        for each in made:
            sync_directory(each.parent)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"the spool's directory {directory} can't be used: {error.strerror}",
            "Set spool.directory to a directory that the agent can make, or may write to",
        ) from error
    try:
        _check(directory, fd)
    except OSError as error:
        os.close(fd)
        raise ConfigError(
            f"the spool's directory {directory} can't be locked: {error.strerror}",
            "Set spool.directory to one on a file system of this machine",
        ) from error
    except ConfigError:
        os.close(fd)
        raise
    return fd


def _check(directory: Path, fd: int) -> None:
    status = os.fstat(fd)
    if status.st_uid not in {0, os.geteuid()}:
        # Who owns it may write there at any time.
        raise ConfigError(
            f"the spool's directory {directory} belongs to user {status.st_uid}",
            f"Give it to the agent's user ({os.geteuid()}), with mode 0700",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"the spool's directory {directory} can be written by others",
            "Name one in it that is not there yet: it is made with mode 0700. Or give it that mode",
        )
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(
            f"the spool's directory {directory} can't be written",
            f"Give it to the agent's user ({os.geteuid()}), with mode 0700",
        )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"the spool's directory {directory} is in use by another exporter or agent",
            "Give each exporter a spool.directory of its own",
        ) from error


class Cursor:
    """How far what is in a spool was sent: number of a segment, and a byte in it.

    Losing it costs no more than sending again, so nothing here raises, and no disk is waited for.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._fd = -1
        try:
            self._open()
        except OSError as error:
            say(f"{path} can't be opened, and is made anew: {error.strerror}")
            # Numbers of segments begin anew without it, so it must not be believed later.
            with contextlib.suppress(OSError):
                path.unlink()
                self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self._path, flags, 0o600)
        if not os.fstat(self._fd).st_size:
            self.write(0, 0)  # so that it has its room when the disk is full

    def read(self) -> tuple[int, int] | None:
        """None if there is none."""
        if self._fd < 0:
            return None
        try:
            raw = os.pread(self._fd, _CURSOR.size + _CRC.size, 0)
        except OSError as error:
            self._say(f"{self._path} can't be read: {error.strerror}")
            self.write(0, 0)  # as when it can't be opened
            return None
        if len(raw) < _CURSOR.size + _CRC.size:
            return None
        if zlib.crc32(raw[: _CURSOR.size]) != _CRC.unpack_from(raw, _CURSOR.size)[0]:
            self._say(f"{self._path} is damaged: what is there is sent again")
            return None
        segment, offset = _CURSOR.unpack_from(raw)
        return segment, offset

    def write(self, segment: int, offset: int) -> None:
        if self._fd < 0:
            return
        fixed = _CURSOR.pack(segment, offset)
        try:
            os.pwrite(self._fd, fixed + _CRC.pack(zlib.crc32(fixed)), 0)
        except OSError as error:
            self._say(f"{self._path} can't be written: {error.strerror}")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

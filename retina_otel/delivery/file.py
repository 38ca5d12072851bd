"""A file that only ever holds whole lines, rotated by size like the Collector's file exporter does.

A line that can't be written to its end is taken back, so that a full disk leaves no half of one.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rotation:
    """A file that would pass `max_bytes` is renamed; `max_backups` renamed ones are kept, 0 all."""

    max_bytes: int
    max_backups: int


class LineFile:
    """Used by one thread. `write` has the form of a Send and never raises for what a disk does."""

    def __init__(
        self, path: Path, *, clock: Clock, truncate: bool, rotation: Rotation | None = None
    ) -> None:
        """Opens or makes the file. Raises ConfigError if that is not possible."""
        self._path = path
        self._clock = clock
        self._rotation = rotation
        self._fd = -1
        try:
            self._open(truncate=truncate)
        except OSError as error:
            raise ConfigError(
                f"{path} can't be written: {error.strerror}",
                "Set path to a file in a directory that exists and that the agent may write to",
            ) from error

    def write(self, lines: bytes, timeout_s: float) -> Outcome:
        """Appends whole lines. A RETRY if the disk does not take them; then nothing was written."""
        try:
            if self._moved():
                self._reopen()
            if self._rotation and self._size and self._size + len(lines) > self._rotation.max_bytes:
                self._rotate(self._rotation)
            self._append(lines)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown").lower()
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            return Outcome(
                Result.RETRY,
                "disk_full" if full else f"file_{name}",
                f"{self._path} can't be written: {error.strerror}",
                "Make room there, or set a smaller rotation" if full else "Check the path",
            )
        return Outcome(Result.ACCEPTED)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, *, truncate: bool) -> None:
        if self._path.is_fifo():
            # Opening it would wait for a reader, and with it the whole agent.
            raise OSError(errno.EINVAL, "it is a named pipe")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        # It tells who talks to whom: nobody outside the group is to read it.
        self._fd = os.open(self._path, flags | (os.O_TRUNC if truncate else 0), 0o640)
        status = os.fstat(self._fd)
        self._regular = stat.S_ISREG(status.st_mode)
        self._size = status.st_size if self._regular else 0

    def _moved(self) -> bool:
        """Somebody renamed or removed the file, as logrotate does."""
        if self._fd < 0:
            return True
        if not self._regular:
            return False
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._fd)
        self._size = ours.st_size
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _reopen(self) -> None:
        self.close()
        self._open(truncate=False)

    def _append(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            if self._regular and len(left) < len(lines):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(lines) if self._regular else 0

    def _rotate(self, rotation: Rotation) -> None:
        """Renames the file to `name-<UTC time>.suffix`, and begins a new one."""
        moment_ns = self._clock.wall_ns()
        while True:
            moment = datetime.fromtimestamp(moment_ns / 1e9, UTC)
            stamp = moment.strftime("%Y-%m-%dT%H-%M-%S.") + f"{moment.microsecond // 1000:03d}"
            backup = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
            if not backup.exists():
                break
            moment_ns += 1_000_000
        self._path.rename(backup)
        self._reopen()
        if rotation.max_backups:
            pattern = f"{_literal(self._path.stem)}-????-??-??T??-??-??.???{self._path.suffix}"
            for old in sorted(self._path.parent.glob(pattern))[: -rotation.max_backups]:
                old.unlink()


def _literal(name: str) -> str:
    """`name` in a glob pattern, its own special characters taken as they are."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)

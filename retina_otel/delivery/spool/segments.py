"""The file format of a spool: segments of records, each record one packed request.

    segment = magic, version, content, time begun, CRC | record | record | ...
    record  = length, items, time, size before compression, encoding, CRC of the data, CRC | data

A record that is not there to its end was never committed. A header that does not fit its CRC ends
what can be read of a segment; data that do not fit their own spoil that record alone.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retina_otel.delivery.packed import Packed

_SEGMENT = struct.Struct("<8sHH16sQ")
_RECORD = struct.Struct("<IIQI8sI")
_CRC = struct.Struct("<I")
_MAGIC = b"ROTSPOOL"
VERSION = 1
SEGMENT_HEADER = _SEGMENT.size + _CRC.size
RECORD_HEADER = _RECORD.size + _CRC.size
MOST_CONTENT = 16
"""Bytes in the name of what a spool holds."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class CorruptError(Exception):
    """What is on the disk is not what was written. The message says what and where."""


@dataclass(frozen=True, slots=True)
class RecordHead:
    """Where a record is, and what is known of it before its data are read."""

    offset: int
    n_bytes: int
    """Of the data, as they are on the disk."""
    n_items: int
    time_ns: int
    raw_bytes: int
    encoding: bytes
    crc: int

    @property
    def end(self) -> int:
        return self.offset + RECORD_HEADER + self.n_bytes


def sync_directory(directory: Path) -> None:
    """Waits until the disk has the names in it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def segment_header(content: bytes, begun_ns: int) -> bytes:
    """`content` names what the requests are; a reader takes no segment of another one."""
    fixed = _SEGMENT.pack(_MAGIC, VERSION, 0, content, begun_ns)
    return fixed + _CRC.pack(zlib.crc32(fixed))


def record(request: Packed, time_ns: int) -> bytes:
    """A record to append."""
    encoding = request.encoding.encode()
    fixed = _RECORD.pack(
        len(request.data),
        request.n_items,
        time_ns,
        request.raw_bytes,
        encoding,
        zlib.crc32(request.data),
    )
    return b"".join((fixed, _CRC.pack(zlib.crc32(fixed)), request.data))


class SegmentReader:
    """One segment, open for reading. Raises OSError for what the disk does."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Raises CorruptError if it is no segment of this content and version."""
        self.fd = os.open(path, _READ)
        try:
            self._check(content)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)

    def heads(self) -> Iterator[RecordHead]:
        """All committed records. Raises CorruptError where they can't be followed any further."""
        size = os.fstat(self.fd).st_size
        offset = SEGMENT_HEADER
        while (head := self.head(offset, size)) is not None:
            yield head
            offset = head.end

    def head(self, offset: int, size: int) -> RecordHead | None:
        """The record at `offset` of a file of `size` bytes; None if it is not there to its end."""
        raw = os.pread(self.fd, RECORD_HEADER, offset)
        if len(raw) < RECORD_HEADER:
            return None
        if zlib.crc32(raw[: _RECORD.size]) != _CRC.unpack_from(raw, _RECORD.size)[0]:
            raise CorruptError(f"no record at byte {offset}")
        head = RecordHead(offset, *_RECORD.unpack_from(raw))
        return head if head.end <= size else None

    def request(self, head: RecordHead) -> Packed:
        """Raises CorruptError if it is not what was written."""
        data = os.pread(self.fd, head.n_bytes, head.offset + RECORD_HEADER)
        if len(data) != head.n_bytes or zlib.crc32(data) != head.crc:
            raise CorruptError(f"the record at byte {head.offset} is damaged")
        encoding = head.encoding.rstrip(b"\0").decode("ascii", "replace")
        return Packed(data, encoding, head.n_items, head.raw_bytes)

    def _check(self, content: bytes) -> None:
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise CorruptError("not a file")
        raw = os.pread(self.fd, SEGMENT_HEADER, 0)
        if raw[: len(_MAGIC)] != _MAGIC[: len(raw)]:
            raise CorruptError("not a segment")
        if len(raw) < SEGMENT_HEADER:
            return  # begun, and nothing was committed
        _, version, _, found, _ = _SEGMENT.unpack_from(raw)
        if zlib.crc32(raw[: _SEGMENT.size]) != _CRC.unpack_from(raw, _SEGMENT.size)[0]:
            raise CorruptError("its header is damaged")
        if version != VERSION:
            raise CorruptError(f"of version {version}, not {VERSION}")
        name = found.rstrip(b"\0")
        if name != content:
            raise CorruptError(f"it holds {name.decode(errors='replace')!r}")


class SegmentWriter:
    """One new segment, open for appending. What `append` returned from is on the disk."""

    def __init__(self, path: Path, content: bytes, begun_ns: int) -> None:
        """Raises OSError, and then leaves no file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self.size = 0
        try:
            self._write(segment_header(content, begun_ns))
            sync_directory(path.parent)
        except OSError:
            self.close()
            path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        os.close(self._fd)

    def append(self, data: bytes) -> None:
        """All of it, or nothing and an OSError. Waits until the disk has it."""
        before = self.size
        try:
            self._write(data)
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, before)
            self.size = before
            raise

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.pwrite(self._fd, left, self.size + len(data) - len(left)) :]
        self.size += len(data)

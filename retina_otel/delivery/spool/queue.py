"""A bounded queue of requests in a directory: what was appended survives the process.

First in, first out; at least once: a request comes again after a crash between the backend's answer
and `advance`. Each item that was ever in it ends in `advance` or in `lost`, by why. Appends wait
for the disk (fdatasync); the cursor does not, so a power failure may bring back what was sent.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retina_otel.delivery.outcome import Clock
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.spool.directory import Cursor, own
from retina_otel.delivery.spool.segments import (
    MOST_CONTENT,
    SEGMENT_HEADER,
    CorruptError,
    RecordHead,
    SegmentReader,
    SegmentWriter,
    record,
)
from retina_otel.errors import ConfigError

_SEGMENT_NAME = re.compile(r"(\d{16})\.(segment|corrupt)")
_PARTS = 16
"""Of `max_bytes`, at least, in segments: what the size limit throws away at a time."""
_LARGEST_SEGMENT = 8 << 20
FULL = "spool_full"
_EXPIRED = "expired"
CORRUPT = "spool_corrupt"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Beyond them the oldest is thrown away."""

    max_bytes: int
    """Of all files together."""
    max_age_s: float
    """0: no limit."""


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """Where a spool is, what for, and how large. `content` names the format of its requests (at
    most 16 bytes): what is found of another one is set aside."""

    directory: Path
    content: str
    limits: SpoolLimits

    def open(self, clock: Clock, say: Callable[[str], None]) -> Spool:
        """Opens the directory, or makes it. Raises ConfigError if it can't be used; a full disk is
        no reason. `say` is told once what was found damaged."""
        return Spool(self, clock, say)


@dataclass(frozen=True, slots=True)
class SpooledRequest:
    """The oldest request of a spool."""

    request: Packed
    segment: int
    head: RecordHead
    resumed: bool
    """An earlier process put it there."""


@dataclass(slots=True)
class _Segment:
    """What of a file is left to send: `n_items` in records from `position` on."""

    number: int
    path: Path
    size: int
    position: int = SEGMENT_HEADER
    n_items: int = 0
    damaged: bool = False


class Spool:
    """Used by one thread. One process at a time owns a directory."""

    def __init__(self, place: SpoolPlace, clock: Clock, say: Callable[[str], None]) -> None:
        directory = self.directory = place.directory
        self.limits = place.limits
        self.lost: Counter[str] = Counter()
        """Items that will never be sent, by why."""
        self.set_aside = 0
        """Files that were found damaged. They are kept, by another name, while there is room."""
        self._content = place.content.encode()[:MOST_CONTENT]
        self._clock = clock
        self._say = say
        # Ages follow the monotonic clock within a process: a step of the wall clock ages nothing.
        self._offset_ns = clock.wall_ns() - clock.monotonic_ns()
        self._segments: deque[_Segment] = deque()
        self._aside: deque[tuple[Path, int]] = deque()
        """Files that were set aside, and their sizes."""
        self._reader: SegmentReader | None = None
        self._writer: SegmentWriter | None = None
        self._held: SpooledRequest | None = None
        self._lock_fd = own(directory)
        self._cursor = Cursor(directory / "cursor", say)
        try:
            self._load()
        except OSError as error:
            self.close()
            raise ConfigError(
                f"the spool in {directory} can't be read: {error.strerror}",
                "Check its files, or set spool.directory to another directory",
            ) from error
        self.resumed = self.n_items
        """Items that an earlier process left."""

    @property
    def n_items(self) -> int:
        """Items that are neither sent nor lost."""
        return sum(segment.n_items for segment in self._segments)

    @property
    def n_bytes(self) -> int:
        """In all files."""
        return sum(each.size for each in self._segments) + sum(size for _, size in self._aside)

    def append(self, requests: Sequence[Packed]) -> None:
        """Puts requests at the end, all or none, and waits until the disk has them. Raises OSError
        if it does not take them."""
        now = self._now_ns()
        data = b"".join(record(request, now) for request in requests)
        self._make_room(len(data))
        if self._writer is not None and self._writer.size + len(data) > self._segment_bytes():
            self._seal()
        if self._writer is None:
            self._begin_segment(now)
        assert self._writer is not None
        segment = self._segments[-1]
        try:
            self._writer.append(data)
        except OSError:
            self._seal()
            if segment.size == SEGMENT_HEADER:
                self._segments.pop()
                segment.path.unlink(missing_ok=True)
            raise
        segment.size = self._writer.size
        segment.n_items += sum(request.n_items for request in requests)

    def oldest(self) -> SpooledRequest | None:
        """The request to send next, until `advance`; None if there is none, or while the process
        can't open files. What can't be read, or is too old, is passed over and counted."""
        self._let_go()
        while self._segments:
            segment = self._segments[0]
            try:
                request = self._read(segment)
            except (CorruptError, OSError) as error:
                if _is_shortage(error):
                    self._say(f"{segment.path} of the spool can't be read now: {error}")
                    return None
                self._damaged(segment, str(error))
                self._drop_oldest(CORRUPT)
                continue
            if request is None:
                if self._writer is not None and len(self._segments) == 1:
                    return None
                self._drop_oldest(CORRUPT)
            elif self.expired(request):
                self._pass(segment, request.head, _EXPIRED)
            else:
                self._held = request
                return request
        return None

    def expired(self, request: SpooledRequest) -> bool:
        """Whether it is older than the limit."""
        age_ns = self._now_ns() - request.head.time_ns
        return 0 < self.limits.max_age_s * 1e9 < age_ns

    def advance(self, request: SpooledRequest) -> None:
        """The backend has it, or never will: it comes no more."""
        self._held = None
        if self._segments and self._segments[0].number == request.segment:
            self._pass(self._segments[0], request.head)

    def close(self) -> None:
        """Lets go of the directory; what was not sent stays. A second call does nothing."""
        self._let_go()
        if self._segments and not self.n_items:
            self._drop_oldest(CORRUPT)
        self._seal()
        self._close_reader()
        self._cursor.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _now_ns(self) -> int:
        return self._clock.monotonic_ns() + self._offset_ns

    def _segment_bytes(self) -> int:
        return min(_LARGEST_SEGMENT, self.limits.max_bytes // _PARTS)

    def _path(self, number: int, kind: str = "segment") -> Path:
        return self.directory / f"{number:016d}.{kind}"

    def _load(self) -> None:
        cursor = self._cursor.read()
        found = sorted(filter(None, map(_SEGMENT_NAME.fullmatch, os.listdir(self.directory))),
                       key=lambda match: match[1])  # fmt: skip
        for match in found:
            path = self.directory / match[0]
            status = path.lstat()
            segment = _Segment(int(match[1]), path, status.st_size)
            if not stat.S_ISREG(status.st_mode):
                continue
            if match[2] == "corrupt":
                self._aside.append((path, segment.size))
            elif cursor is not None and segment.number < cursor[0]:
                path.unlink()
            else:
                self._count(segment, cursor)
                if segment.n_items or segment.damaged:
                    self._segments.append(segment)
                else:
                    path.unlink()
        # A number is never used again: the cursor may still name it.
        used = [int(match[1]) for match in found] + ([cursor[0]] if cursor is not None else [])
        self._first = self._next = max(used, default=0) + 1

    def _count(self, segment: _Segment, cursor: tuple[int, int] | None) -> None:
        try:
            reader = SegmentReader(segment.path, self._content)
        except (CorruptError, OSError) as error:
            if _is_shortage(error):
                raise
            self._damaged(segment, str(error))
            return
        start = cursor[1] if cursor is not None and cursor[0] == segment.number else 0
        after = 0
        try:
            for head in reader.heads():
                segment.n_items += head.n_items
                if head.end == start:
                    segment.position, after = start, segment.n_items
        except (CorruptError, OSError) as error:
            self._damaged(segment, str(error))
        finally:
            reader.close()
        segment.n_items -= after

    def _damaged(self, segment: _Segment, what: str) -> None:
        if not segment.damaged:
            segment.damaged = True
            self.set_aside += 1
            self._say(f"{segment.path} of the spool is damaged, and set aside: {what}")

    def _read(self, segment: _Segment) -> SpooledRequest | None:
        """The next record that is whole; None at the end."""
        if self._reader is None:
            self._reader = SegmentReader(segment.path, self._content)
        while (head := self._reader.head(segment.position, segment.size)) is not None:
            try:
                request = self._reader.request(head)
            except CorruptError as error:
                self._damaged(segment, str(error))
                self._pass(segment, head, CORRUPT)
            else:
                resumed = segment.number < self._first
                return SpooledRequest(request, segment.number, head, resumed)
        return None

    def _pass(self, segment: _Segment, head: RecordHead, why: str = "") -> None:
        segment.position = head.end
        segment.n_items -= head.n_items
        if why:
            self.lost[why] += head.n_items
        self._cursor.write(segment.number, segment.position)

    def _drop_oldest(self, why: str) -> None:
        """Removes the oldest segment, or sets it aside; what is left in it is lost."""
        segment = self._segments.popleft()
        self._close_reader()
        if not self._segments:
            self._seal()
        left = segment.n_items
        if self._held is not None and self._held.segment == segment.number:
            left -= self._held.head.n_items  # whoever holds it books it
        if left:
            self.lost[why] += left
        self._cursor.write(segment.number + 1, 0)
        try:
            if segment.damaged:
                aside = segment.path.with_suffix(".corrupt")
                segment.path.rename(aside)
                self._aside.append((aside, segment.size))
            else:
                segment.path.unlink(missing_ok=True)
        except OSError as error:
            self._say(f"{segment.path} can't be removed: {error.strerror}")

    def _let_go(self) -> None:
        """The request in hand was given back; its segment may be gone by now."""
        held, self._held = self._held, None
        if held is not None and (not self._segments or self._segments[0].number > held.segment):
            self.lost[FULL] += held.head.n_items

    def _make_room(self, n_bytes: int) -> None:
        while self.n_bytes + n_bytes + SEGMENT_HEADER > self.limits.max_bytes:
            if self._aside:
                self._aside.popleft()[0].unlink(missing_ok=True)
            elif self._segments:
                self._drop_oldest(FULL)
            else:
                return

    def _begin_segment(self, now: int) -> None:
        path = self._path(self._next)
        self._writer = SegmentWriter(path, self._content, now)
        self._segments.append(_Segment(self._next, path, self._writer.size))
        self._next += 1

    def _seal(self) -> None:
        """Nothing more is appended to the newest segment."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _is_shortage(error: Exception) -> bool:
    """Whether it is the process or the machine that lacks something, and no fault of a file."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

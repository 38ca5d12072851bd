"""The lane of events that go over the disk: taken, packed, put into the spool, sent from there.

An event is acknowledged to its buffer once it is on the disk, whether the backend works or not;
from then on only the spool's limits throw it away. While the disk takes nothing, events stay in
their buffer and are sent from there, after what the spool still has.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retina_otel.delivery.lane import Lane, LaneOptions
from retina_otel.delivery.lanes import EventsRoute
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.sharing import Pack
from retina_otel.delivery.spool.queue import CORRUPT, FULL, Spool, SpooledRequest
from retina_otel.pipeline.points import EventsExport, EventsReader

_LARGEST_SHARE = 4
"""A part of the spool's size that what is put into it at a time stays below."""


@dataclass(frozen=True, slots=True)
class _FromDisk:
    spooled: SpooledRequest
    packed: Packed

    @property
    def n_events(self) -> int:
        return self.packed.n_items


@dataclass(frozen=True, slots=True)
class _FromMemory:
    source: _Source
    export: EventsExport
    n_events: int


@dataclass(slots=True)
class _Source:
    """A reader, and how much of what it shed was booked."""

    reader: EventsReader
    shed: int = 0


class _Packing:
    """Makes the requests of either kind of export; stands where a lane has its encoder."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def requests(self, export: Any, max_bytes: int, pack: Pack) -> Iterator[Packed]:
        if isinstance(export, _FromDisk):
            return iter((export.packed,))
        if isinstance(export, _FromMemory):
            export = export.export
        return iter(self._encoder.requests(export, max_bytes, pack))


class SpoolLane(Lane[Any]):
    """All events of one exporter. Owns the spool from its first step on."""

    unit = "events"
    may_lose = (*Lane.may_lose, "shed", FULL, CORRUPT)

    def __init__(
        self,
        name: str,
        readers: Sequence[EventsReader],
        route: EventsRoute,
        options: LaneOptions,
        spool: Spool,
    ) -> None:
        super().__init__(name, route, options)
        self._encoder = _Packing(self._encoder)  # type: ignore[assignment]
        self._sources = [_Source(reader) for reader in readers]
        self._spool = spool
        self._spool_lost: Counter[str] = Counter()
        self._held = spool.resumed
        """Events on the disk that are in no account yet."""
        self._disk_works = True
        self._fill_ns = self._send_ns = self.due_ns
        self._report.resume(spool.resumed)

    def begin_flush(self, deadline_ns: int) -> None:
        super().begin_flush(deadline_ns)
        self._fill_ns = self._send_ns = self.due_ns

    def step(self) -> None:
        """Puts on the disk what there is, once an interval; sends at most one request."""
        now = self._clock.monotonic_ns()
        if now >= self._fill_ns:
            passed = (now - self._fill_ns) // self._interval_ns
            self._fill_ns += (passed + 1) * self._interval_ns
            if self._fill() and self._failing_since_ns is None:
                self._send_ns = now
        if now >= self._send_ns:
            self._end_if_too_old()
            super().step()
            if self._all_answered():
                # At once: if the process dies now, nothing is sent twice.
                self._settle()
            self._send_ns = self.due_ns
        self.due_ns = min(self._fill_ns, self._send_ns)

    def defect(self, message: str) -> None:
        super().defect(message)
        self._fill_ns = self._send_ns = self.due_ns

    def give_up(self) -> None:
        if isinstance(self._export, _FromMemory):
            self._settle(unsent="shutdown")
        elif self._export is not None:
            # What of it has arrived comes again, with the rest of it, at the next start.
            self._book(self._accepted, self._lost, self._accepted + self._lost.total())
            self._forget()
        self._fill()
        while not self._disk_works and (export := self._from_memory()) is not None:
            self._export = export
            self._settle(unsent="shutdown")
        self.finished = True

    def close(self) -> None:
        """After the last step: what is on the disk stays there."""
        self._spool.close()
        self._book_losses()
        self._report.keep(self._held)

    def _take(self) -> _FromDisk | _FromMemory | None:
        export = self._from_disk()
        if export is None and self._deadline_ns is not None and self._fill():
            export = self._from_disk()
        if export is not None:
            return export
        if not self._disk_works and (unspooled := self._from_memory()) is not None:
            return unspooled
        self.finished = self._deadline_ns is not None
        self.due_ns = self._fill_ns
        return None

    def _size(self, export: _FromDisk | _FromMemory) -> int:
        return export.n_events

    def _without_blocks(self, export: _FromDisk | _FromMemory) -> _FromDisk | _FromMemory:
        if isinstance(export, _FromDisk):
            return export
        export.source.reader.let_go()
        return replace(export, export=EventsExport(export.export.sequence, ()))

    def _acknowledge(self, export: _FromDisk | _FromMemory) -> None:
        if isinstance(export, _FromDisk):
            self._spool.advance(export.spooled)
        else:
            export.source.reader.acknowledge(export.export)

    def _gives_way(self, now: int) -> bool:
        return False

    def _overdue(self, now: int) -> None:
        # What is on the disk has the spool's limit of age instead.
        if isinstance(self._export, _FromMemory):
            self._settle(unsent="expired")

    def _after_export(self, now: int) -> int:
        return now

    def _settle(self, *, unsent: str = "not_encoded", superseded: bool = False) -> None:
        export = self._export
        assert export is not None
        left = export.n_events - self._accepted - self._lost.total()
        self._lost[unsent] += left
        held = export.n_events if isinstance(export, _FromDisk) else 0
        self._book(self._accepted, self._lost, held)
        self._acknowledge(export)
        self._forget()

    def _book(self, accepted: int, lost: Counter[str], held: int = 0) -> None:
        self._report.settle(self.unit, accepted=accepted, lost=lost, held=held)
        self._held -= held

    def _book_losses(self) -> None:
        lost = self._spool.lost - self._spool_lost
        if lost:
            self._book(0, lost, lost.total())
            self._spool_lost = self._spool.lost.copy()
        self._report.on_disk(self._spool.n_bytes, self._spool.set_aside)

    def _all_answered(self) -> bool:
        return (
            isinstance(self._export, _FromDisk)
            and self._accepted + self._lost.total() == self._export.n_events
        )

    def _end_if_too_old(self) -> None:
        if isinstance(self._export, _FromDisk) and self._spool.expired(self._export.spooled):
            self._settle(unsent="expired")

    def _fill(self) -> bool:
        """Puts on the disk what the buffers have. Whether there was anything."""
        if isinstance(self._export, _FromMemory):
            if self._accepted or self._lost.total():
                return False  # it is partly sent already, so the rest of it follows
            self._forget()
        filled = False
        for source in self._sources:
            while (export := self._next_of(source)) is not None:
                requests = list(
                    self._encoder.requests(export, self.max_bytes, self._route.sender.pack)
                )
                if not self._appended(requests):
                    return filled
                source.reader.acknowledge(export)
                n_events = sum(request.n_items for request in requests)
                self._report.hold(n_events)
                self._held += n_events
                if n_events < export.n_events:
                    self._book(0, Counter(not_encoded=export.n_events - n_events))
                filled = True
        if not self._disk_works:
            self._appended([])  # there was nothing to try it with
        self._book_losses()
        return filled

    def _appended(self, requests: list[Packed]) -> bool:
        """Whether the disk took them."""
        try:
            self._spool.append(requests)
        except OSError as error:
            self._disk_works = False
            self._book_losses()
            self._disk_failed(error)
        else:
            self._disk_works = True
            self._report.passed("spool")
        return self._disk_works

    def _disk_failed(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "unknown").lower()
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        outcome = Outcome(
            Result.RETRY,
            "disk_full" if full else f"disk_{name}",
            f"{self._spool.directory} takes no events: {error.strerror}; they stay in memory",
            "Make room there, or set a smaller spool.max_bytes" if full else "Check the disk",
        )
        self._report.failed("spool", outcome)

    def _from_disk(self) -> _FromDisk | None:
        while (spooled := self._spool.oldest()) is not None:
            self._book_losses()
            if not spooled.resumed:
                return _FromDisk(spooled, spooled.request)
            try:
                # Other settings packed it, or for a backend that reads other encodings.
                body = spooled.request.body()
            except Exception as error:
                self._report.damaged(f"a request in {self._spool.directory}: {error}")
                n_events = spooled.request.n_items
                self._book(0, Counter({CORRUPT: n_events}), n_events)
                self._spool.advance(spooled)
            else:
                return _FromDisk(spooled, self._route.sender.pack(body, spooled.request.n_items))
        self._book_losses()
        return None

    def _from_memory(self) -> _FromMemory | None:
        for source in self._sources:
            if (export := self._next_of(source)) is not None:
                return _FromMemory(source, export, export.n_events)
        return None

    def _next_of(self, source: _Source) -> EventsExport | None:
        share = self._spool.limits.max_bytes // _LARGEST_SHARE
        export = source.reader.take(min(self.max_bytes, share))
        if (shed := source.reader.shed) > source.shed:
            self._book(0, Counter(shed=shed - source.shed))
            source.shed = shed
        return export

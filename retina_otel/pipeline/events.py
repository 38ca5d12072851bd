"""EventBuffer: the end of a logs pipeline. One bounded buffer, a cursor for each exporter.

Events are numbered from 0 as they come. For every reader each event is either acknowledged or,
once the buffer's bound has pushed it out before that, counted as shed. The tick thread appends and
tidies; exporter threads take and acknowledge; one lock guards the list of blocks, whose arrays
never change.

Set ids of dropped events go back to AttributeSets under the present generation, and mean something
else only when no reader holds an export that was taken in it or before: a reader lets go by
`acknowledge()`, by `let_go()` or by its next `take()`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import Column, EventBatch, RawEnds
from retina_otel.model.signals import Ends, Event
from retina_otel.pipeline.columns import frozen
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.identity.known_by import known_by
from retina_otel.pipeline.points import EventBlock, EventsExport
from retina_otel.pipeline.series.projection import PREFIXES, Choice, Projection, patterns_for

_MIB = 1 << 20
_FIXED_BYTES = 64
"""Estimate of what an event takes beside its attributes, encoded: times, name, severity, body."""
_INTEGER_BYTES = 12
_ATTRIBUTE_BYTES = 8

_Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EventBufferSettings:
    """What a buffer is told by configuration."""

    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By event name (exact, or a pattern), patterns over attribute names; see `projection`. An
    event that none matches has all attributes there are."""
    max_bytes: int = 16 * _MIB
    """Bound of the buffer, in bytes as the events would be encoded. The oldest give way."""


@dataclass(slots=True)
class _Chunk:
    """Events [first + offset, first + len(block)) are still here."""

    first: int
    block: EventBlock
    bytes_until: _Longs
    """By event: bytes of the block up to and with it."""
    offset: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.bytes_until)

    @property
    def n_bytes(self) -> int:
        return int(self.bytes_until[-1]) - self.bytes_before(self.offset)

    def bytes_before(self, index: int) -> int:
        return int(self.bytes_until[index - 1]) if index else 0


class EventBuffer:
    """See the module's docstring."""

    def __init__(
        self, endpoints: EndpointTable, settings: EventBufferSettings | None = None
    ) -> None:
        self.settings = settings or EventBufferSettings()
        self.sets = AttributeSets()
        self._endpoints = endpoints
        self._projections: dict[Event, Projection] = {}
        self._set_bytes: _Longs = np.zeros(64, np.int64)
        self._set_versions: npt.NDArray[np.int32] = np.full(64, -1, np.int32)
        self._lock = threading.Lock()
        self._chunks: deque[_Chunk] = deque()
        self._readers: list[BufferReader] = []
        self._exports: dict[tuple[int, int], EventsExport] = {}
        """What was taken of the present chunks, by cursor and bound: the same for all readers."""
        self._first = 0
        self._end = 0
        self._n_bytes = 0

    def __len__(self) -> int:
        """Events in the buffer that some reader has not acknowledged, or that wait for `tidy`."""
        return self._end - self._first

    @property
    def appended(self) -> int:
        """Events since start."""
        return self._end

    @property
    def n_bytes(self) -> int:
        """Bytes in the buffer, as the events would be encoded."""
        return self._n_bytes

    def append(self, batch: EventBatch, observed_ns: int | None = None) -> None:
        """Takes in the events of `batch`, seen at `observed_ns` (the end of its window if None)."""
        if len(batch):
            seen_ns = batch.window.end_ns if observed_ns is None else observed_ns
            for block in self._blocks(batch, seen_ns):
                self._push(block)
        self.tidy()

    def tidy(self) -> None:
        """Drops what every reader has acknowledged, and what is beyond the bound. Tick thread."""
        dropped: list[EventBlock] = []
        with self._lock:
            self._exports.clear()
            done = min((reader.cursor for reader in self._readers), default=self._end)
            while self._chunks and self._chunks[0].end <= done:
                dropped.append(self._drop_oldest())
            while self._n_bytes > self.settings.max_bytes:
                dropped.append(self._shed())
            held = [reader.holds for reader in self._readers if reader.holds is not None]
        for block in dropped:
            for ids in (block.source, block.destination, block.own):
                self.sets.release_all(ids)
        with self._lock:
            self.sets.generation += 1
        self.sets.reclaim(min([self.sets.generation, *held]))

    def reader(self, name: str) -> BufferReader:
        """A new reader, for one exporter; it begins with the oldest event there is. Any thread."""
        with self._lock:
            reader = BufferReader(name, self, self._first)
            self._readers.append(reader)
        return reader

    def remove(self, reader: BufferReader) -> None:
        """Events are kept for `reader` no longer. It must not be used after this. Any thread."""
        with self._lock:
            self._readers.remove(reader)

    def _blocks(self, batch: EventBatch, observed_ns: int) -> list[EventBlock]:
        batch = replace(batch, own={**batch.own, **known_by(batch)})
        projection = self._projection(batch.event)
        choice = projection.choice
        source, destination, own = projection.project(batch)
        integers = {
            name: column
            for name, column in batch.own.items()
            if not isinstance(column, Column) and choice.own(name)
        }
        ports = _ports(batch, choice)
        without = np.ones(len(batch), np.bool_)
        for column in ports.values():
            without &= column == 0
        blocks = []
        for rows, extra in ((np.flatnonzero(~without), ports), (np.flatnonzero(without), {})):
            if len(rows):
                blocks.append(
                    EventBlock(
                        event=batch.event,
                        time_ns=frozen(batch.time_ns[rows]),
                        observed_ns=observed_ns,
                        source=frozen(source[rows]),
                        destination=frozen(destination[rows]),
                        own=frozen(own[rows]),
                        integers={
                            name: frozen(column[rows])
                            for name, column in {**integers, **extra}.items()
                        },
                        body=batch.body,
                        sets=self.sets,
                    )
                )
        return blocks

    def _projection(self, event: Event) -> Projection:
        projection = self._projections.get(event)
        if projection is None:
            choice = Choice.of(event, patterns_for(event, self.settings.attributes))
            projection = Projection(self._endpoints, self.sets, choice, ports=False)
            self._projections[event] = projection
        return projection

    def _push(self, block: EventBlock) -> None:
        sizes = np.full(len(block.time_ns), _FIXED_BYTES + len(block.body), np.int64)
        sizes += sum(_INTEGER_BYTES + len(name) for name in block.integers)
        for ids in (block.source, block.destination, block.own):
            self.sets.retain_all(ids)
            sizes += self._bytes_of(ids)
        bytes_until = np.cumsum(sizes)
        with self._lock:
            self._exports.clear()
            chunk = _Chunk(self._end, block, bytes_until)
            self._chunks.append(chunk)
            self._end = chunk.end
            self._n_bytes += chunk.n_bytes

    def _bytes_of(self, ids: npt.NDArray[np.int32]) -> _Longs:
        if len(self.sets) > len(self._set_bytes):
            size = len(self.sets) * 3 // 2
            self._set_bytes = np.resize(self._set_bytes, size)
            versions = np.full(size, -1, np.int32)
            versions[: len(self._set_versions)] = self._set_versions
            self._set_versions = versions
        used = np.unique(ids)
        versions = self.sets.versions(used)
        for number in used[self._set_versions[used] != versions].tolist():
            self._set_bytes[number] = sum(
                len(key) + len(str(value)) + _ATTRIBUTE_BYTES
                for key, value in self.sets.get(number)
            )
        self._set_versions[used] = versions
        return self._set_bytes[ids]

    def _drop_oldest(self) -> EventBlock:
        chunk = self._chunks.popleft()
        self._n_bytes -= chunk.n_bytes
        self._first = chunk.end
        return _part(chunk.block, chunk.offset, len(chunk.bytes_until))

    def _shed(self) -> EventBlock:
        """Takes from the oldest block as many events as are too many."""
        chunk = self._chunks[0]
        excess = self._n_bytes - self.settings.max_bytes
        before = chunk.bytes_before(chunk.offset)
        until = int(np.searchsorted(chunk.bytes_until, before + excess)) + 1
        if until >= len(chunk.bytes_until):
            return self._drop_oldest()
        low, chunk.offset = chunk.offset, until
        self._n_bytes -= chunk.bytes_before(until) - before
        self._first = chunk.first + until
        return _part(chunk.block, low, until)

    def _take(self, reader: BufferReader, max_bytes: int) -> EventsExport | None:
        with self._lock:
            reader.lose(self._first)
            reader.holds, reader.taken_until = None, reader.cursor
            cursor = (reader.cursor, max_bytes)
            export = self._exports.get(cursor) or self._export(*cursor)
            if not export.blocks:
                return None
            self._exports[cursor] = export
            reader.holds = self.sets.generation
            reader.taken_until = export.sequence
        return export

    def _export(self, end: int, max_bytes: int) -> EventsExport:
        """The events from number `end` on."""
        blocks: list[EventBlock] = []
        room = max_bytes
        for chunk in self._chunks:
            if chunk.end <= end or room <= 0:
                continue
            low = max(end - chunk.first, chunk.offset)
            limit = chunk.bytes_before(low) + room
            high = int(np.searchsorted(chunk.bytes_until, limit, side="right"))
            if high == low and not blocks:
                high = low + 1
            if high > low:
                blocks.append(_part(chunk.block, low, high))
                end = chunk.first + high
            room = limit - chunk.bytes_before(high) if high == len(chunk.bytes_until) else 0
        return EventsExport(end, blocks)


class BufferReader:
    """An exporter's cursor, as EventsReader has it. One thread at a time."""

    def __init__(self, name: str, buffer: EventBuffer, first: int) -> None:
        self.name = name
        self.cursor = first
        """Number of the first event that is not acknowledged."""
        self.holds: int | None = None
        """Generation in which the export that is read was taken."""
        self.taken_until = first
        self._buffer = buffer
        self._shed = 0

    def take(self, max_bytes: int) -> EventsExport | None:
        """The oldest events not acknowledged, about `max_bytes` of them and at least one; None if
        there are none."""
        return self._buffer._take(self, max_bytes)

    def let_go(self) -> None:
        """The blocks of what was taken are read no more; it may still be acknowledged."""
        with self._buffer._lock:
            self.holds = None

    def acknowledge(self, export: EventsExport) -> None:
        """The cursor moves past them. What was taken counts as delivered even if the buffer has
        dropped it in the meantime."""
        with self._buffer._lock:
            self.cursor = max(self.cursor, export.sequence)
            self.holds = None

    @property
    def shed(self) -> int:
        """Events that this reader never got. What it took last, and may still acknowledge, is not
        among them."""
        with self._buffer._lock:
            reached = max(self.cursor, self.taken_until)
            return self._shed + max(0, self._buffer._first - reached)

    def lose(self, first: int) -> None:
        """Moves past what the buffer has dropped."""
        if first > self.cursor:
            self._shed += first - self.cursor
            self.cursor = first


def _part(block: EventBlock, low: int, high: int) -> EventBlock:
    if low == 0 and high == len(block.time_ns):
        return block
    return EventBlock(
        event=block.event,
        time_ns=block.time_ns[low:high],
        observed_ns=block.observed_ns,
        source=block.source[low:high],
        destination=block.destination[low:high],
        own=block.own[low:high],
        integers={name: column[low:high] for name, column in block.integers.items()},
        body=block.body,
        sets=block.sets,
    )


def _ports(batch: EventBatch, choice: Choice) -> dict[str, _Longs]:
    """Columns of the chosen ports: they differ from event to event, so they are in no set."""
    ends: tuple[RawEnds | None, ...] = (batch.source, batch.destination)
    if batch.event.ends is not Ends.BOTH:
        return {}
    return {
        name: raw.port.astype(np.int64)
        for prefix, raw in zip(PREFIXES[batch.event.ends], ends, strict=True)
        if raw is not None and (name := choice.raw(prefix, "port"))
    }

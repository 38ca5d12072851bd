"""Cuts streams of encoded rows into requests below a size, without a whole export in memory.

A stream is the rows of one metric, or of one kind of event. Rows keep their order; a scope or
metric whose rows do not fit is written again, with its header, in the next request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_BYTES = 4 * 1024 * 1024 - 4096
"""What fits into a gRPC server's default limit of 4 MiB, headers included."""


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request. `n_items` counts its data points or log records."""

    body: bytes
    n_items: int


class Rows(Protocol):
    """Rows that can be encoded a range at a time."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Encoded bytes of each row."""

    def pieces(self, low: int, high: int) -> list[bytes]:
        """What, joined, is rows [low, high)."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around rows of one stream. `data` is the tag of the message that holds them."""

    head: bytes = b""
    data: bytes = b""
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Stream:
    """Streams of one scope, and in it of one envelope, stand beside each other."""

    scope: str
    envelope: Envelope
    rows: Rows


@dataclass(slots=True)
class Group:
    """Rows of one envelope in a request: `size` bytes when joined."""

    envelope: Envelope
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0


class Assembler(Protocol):
    """Writes what stands around rows: one for each signal and format."""

    def overhead(self, scope: str | None, envelope: Envelope | None) -> int:
        """At most so many bytes around a request (both None), around a scope, around a group."""

    def assemble(self, scopes: list[tuple[str, list[Group]]]) -> bytes: ...


def cut(streams: Iterable[Stream], assembler: Assembler, max_bytes: int) -> Iterator[Request]:
    """Requests of at most `max_bytes`; only a row that is larger by itself makes a larger one."""
    empty = assembler.overhead(None, None)
    scopes: list[tuple[str, list[Group]]] = []
    size, n_items = empty, 0
    for stream in streams:
        ends = np.cumsum(stream.rows.sizes)
        low = 0
        while low < len(ends):
            new_scope = not scopes or scopes[-1][0] != stream.scope
            new_group = new_scope or scopes[-1][1][-1].envelope is not stream.envelope
            around = assembler.overhead(stream.scope, None) if new_scope else 0
            around += assembler.overhead(None, stream.envelope) if new_group else 0
            done = int(ends[low - 1]) if low else 0
            high = int(np.searchsorted(ends, done + max_bytes - size - around, side="right"))
            if high <= low:
                if n_items:
                    request = Request(assembler.assemble(scopes), n_items)
                    scopes, size, n_items = [], empty, 0
                    yield request
                    del request
                    continue
                high = low + 1
            if new_scope:
                scopes.append((stream.scope, []))
            if new_group:
                scopes[-1][1].append(Group(stream.envelope))
            group = scopes[-1][1][-1]
            group.pieces += stream.rows.pieces(low, high)
            group.size += int(ends[high - 1]) - done
            size += around + int(ends[high - 1]) - done
            n_items += high - low
            low = high
    if n_items:
        yield Request(assembler.assemble(scopes), n_items)

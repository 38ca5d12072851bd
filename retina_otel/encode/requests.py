"""Cuts streams of encoded rows into requests below a size, without a whole export in memory.

A stream is the rows of one metric, or of one kind of event. Rows keep their order; a resource,
scope or metric whose rows do not fit is written again, with its header, in the next request.
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
    """Streams of one resource, in it of one scope, and in that of one envelope, stand beside each
    other."""

    scope: str
    envelope: Envelope
    rows: Rows
    resource: bytes | None = None
    """The resource as the format has it; None: the agent's."""


@dataclass(slots=True)
class Group:
    """Rows of one envelope in a request: `size` bytes when joined."""

    envelope: Envelope
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0


Scopes = list[tuple[str, list[Group]]]


class Assembler(Protocol):
    """Writes what stands around rows: one for each signal and format."""

    def around_resource(self, resource: bytes | None) -> int:
        """At most so many bytes around the scopes of a resource; its share of the request too."""

    def around_scope(self, scope: str) -> int: ...

    def around_group(self, envelope: Envelope) -> int: ...

    def assemble(self, resources: list[tuple[bytes | None, Scopes]]) -> bytes: ...


def cut(streams: Iterable[Stream], assembler: Assembler, max_bytes: int) -> Iterator[Request]:
    """Requests of at most `max_bytes`; only a row that is larger by itself makes a larger one."""
    resources: list[tuple[bytes | None, Scopes]] = []
    size = n_items = 0
    for stream in streams:
        ends = np.cumsum(stream.rows.sizes)
        low = 0
        while low < len(ends):
            new_resource = not resources or resources[-1][0] != stream.resource
            new_scope = new_resource or resources[-1][1][-1][0] != stream.scope
            new_group = new_scope or resources[-1][1][-1][1][-1].envelope is not stream.envelope
            around = assembler.around_resource(stream.resource) if new_resource else 0
            around += assembler.around_scope(stream.scope) if new_scope else 0
            around += assembler.around_group(stream.envelope) if new_group else 0
            done = int(ends[low - 1]) if low else 0
            high = int(np.searchsorted(ends, done + max_bytes - size - around, side="right"))
            if high <= low:
                if n_items:
                    request = Request(assembler.assemble(resources), n_items)
                    resources, size, n_items = [], 0, 0
                    yield request
                    del request
                    continue
                high = low + 1
            if new_resource:
                resources.append((stream.resource, []))
            scopes = resources[-1][1]
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
        yield Request(assembler.assemble(resources), n_items)

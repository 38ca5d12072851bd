"""What the push exporters of one agent have in common: the moments at which they begin, and work.

Exporters of equal intervals begin at one moment, so they take the same export; those whose requests
are the same bytes encode and compress it once: whoever comes first to a request makes it, the
others get it. No lock is held while anything is sent, so no backend is waited for.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from retina_otel.delivery.sender import Packed
from retina_otel.pipeline.once import Once

Pack = Callable[[bytes, int], Packed]


class Encoded(Protocol):
    """A complete request as encoders yield it."""

    @property
    def body(self) -> bytes: ...

    @property
    def n_items(self) -> int:
        """Points or records in it."""


Encode = Callable[[Sequence[Any], int], Iterator[Encoded]]
"""Blocks and the bound of a request before compression, to requests."""


class Export(Protocol):
    @property
    def blocks(self) -> Sequence[Any]: ...

    @property
    def once(self) -> Once: ...


class Sharing:
    """One for each agent. Any thread."""

    def __init__(self, phase: float | None = None) -> None:
        """`phase`: share of an interval, from 0 to 1, by which its beginnings lie after the
        multiples of it; random if None, so that the agents of a cluster do not push at once."""
        self.phase = random.random() if phase is None else phase
        self._lock = threading.Lock()
        self._encoders: WeakValueDictionary[Hashable, SharedEncoder] = WeakValueDictionary()

    def encoder(
        self, key: Hashable | None, make: Callable[[], Encode]
    ) -> OwnEncoder | SharedEncoder:
        """The encoder of a key, kept as long as anybody holds it; without a key one's own."""
        if key is None:
            return OwnEncoder(make())
        with self._lock:
            encoder = self._encoders.get(key)
            if encoder is None:
                encoder = self._encoders[key] = SharedEncoder(make())
            return encoder


class OwnEncoder:
    """An encoder of one lane. Its requests are kept by nobody."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def requests(self, export: Export, max_bytes: int, pack: Pack) -> Iterator[Packed]:
        """The requests of an export, in order. Whoever reads on must hold the export's sets."""
        for request in self._encode(export.blocks, max_bytes):
            yield pack(request.body, request.n_items)


class SharedEncoder:
    """An encoder that several lanes use, one at a time."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._lock = threading.Lock()

    def requests(self, export: Export, max_bytes: int, pack: Pack) -> Iterator[Packed]:
        """As `OwnEncoder.requests`, the same ones for all."""
        stream = export.once.get(
            (self, max_bytes), lambda: _Stream(self._lock, self._encode(export.blocks, max_bytes))
        )
        number = 0
        while (packed := stream.at(number, pack)) is not None:
            yield packed
            number += 1


class _Stream:
    """Requests that were made, and those to come."""

    def __init__(self, lock: threading.Lock, requests: Iterator[Encoded]) -> None:
        self._lock = lock
        self._requests = requests
        self._made: list[Packed] = []
        self._error: Exception | None = None

    def at(self, number: int, pack: Pack) -> Packed | None:
        """Request `number`, at most one more than were made; None after the last."""
        with self._lock:
            if number == len(self._made):
                if self._error is not None:
                    raise self._error
                try:
                    request = next(self._requests, None)
                    if request is None:
                        return None
                    self._made.append(pack(request.body, request.n_items))
                except Exception as error:
                    self._error = error
                    raise
            return self._made[number]

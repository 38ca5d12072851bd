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
from weakref import WeakSet, WeakValueDictionary

from retina_otel.delivery.packed import Packed
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
        self._encoders: WeakValueDictionary[Hashable, _Encoder] = WeakValueDictionary()

    def encoder(self, key: Hashable | None, make: Callable[[], Encode]) -> LaneEncoder:
        """What a lane encodes with. Those of one key share what `make` made for the first of them;
        without a key nothing is shared."""
        if key is None:
            return LaneEncoder(_Encoder(make()))
        with self._lock:
            encoder = self._encoders.get(key)
            if encoder is None:
                encoder = self._encoders[key] = _Encoder(make())
            return LaneEncoder(encoder)


class _Encoder:
    """An encoder that one lane at a time uses, and whose it is."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.lock = threading.Lock()
        self.lanes: WeakSet[LaneEncoder] = WeakSet()


class LaneEncoder:
    """One lane's share of an encoder."""

    def __init__(self, encoder: _Encoder) -> None:
        self._encoder = encoder
        encoder.lanes.add(self)

    def requests(self, export: Export, max_bytes: int, pack: Pack) -> Iterator[Packed]:
        """The requests of an export, in order: the same ones for all lanes that share the encoder,
        kept with the export, or kept by nobody if there is one lane. Whoever reads on must hold the
        export's sets."""
        encoder = self._encoder

        def encode() -> _Stream:
            return _Stream(encoder.lock, encoder.encode(export.blocks, max_bytes))

        if len(encoder.lanes) == 1:
            stream = encode()
            while (packed := stream.make(pack)) is not None:
                yield packed
        else:
            stream = export.once.get((encoder, max_bytes), encode)
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
            if number < len(self._made):
                return self._made[number]
            if self._error is not None:
                raise self._error
            try:
                packed = self._next(pack)
            except Exception as error:
                self._error = error
                raise
            if packed is not None:
                self._made.append(packed)
            return packed

    def make(self, pack: Pack) -> Packed | None:
        """The next request, which is not kept; None after the last."""
        with self._lock:
            return self._next(pack)

    def _next(self, pack: Pack) -> Packed | None:
        request = next(self._requests, None)
        return None if request is None else pack(request.body, request.n_items)

"""What brings one request to a backend: packed once, sent as often as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from retina_otel.delivery.outcome import Outcome
from retina_otel.delivery.packed import Packed


class Sender(Protocol):
    """Packs and sends requests. Used by one thread, but for `abort`; what `pack` makes may be sent
    by any sender of the same kind and settings."""

    def pack(self, body: bytes, n_items: int) -> Packed:
        """Compresses."""

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        """Sends within so many seconds. Never raises for what a backend or network does."""

    def abort(self) -> None:
        """Ends a request that is under way; nothing is sent after. From another thread."""

    def close(self) -> None: ...


class PlainSender:
    """Hands uncompressed requests to a function that does not wait for anybody."""

    def __init__(
        self,
        write: Callable[[bytes, float], Outcome],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._write = write
        self._close = close

    def pack(self, body: bytes, n_items: int) -> Packed:
        return Packed(body, "", n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        return self._write(packed.data, timeout_s)

    def abort(self) -> None: ...

    def close(self) -> None:
        self._close()

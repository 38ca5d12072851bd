"""One request as it goes over the wire.

What has to look into it again (to cut it in two, to try another encoding) unpacks it.
"""

from __future__ import annotations

from dataclasses import dataclass

from retina_otel.delivery.compression import decompress


@dataclass(frozen=True, slots=True)
class Packed:
    """One request ready to be sent."""

    data: bytes
    encoding: str
    """Its Content-Encoding, "" for none."""
    n_items: int
    """Points or records in it."""
    raw_bytes: int
    """Size before compression."""

    def body(self) -> bytes:
        """The request before compression."""
        return decompress(self.data, self.encoding, self.raw_bytes)

"""What a sender put on the wire, counted by the sender."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    """Frames on the wire, their bytes with Ethernet headers, and the payload bytes in them."""

    packets: int = 0
    bytes: int = 0
    payload: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.packets + other.packets, self.bytes + other.bytes, self.payload + other.payload
        )


@dataclass(frozen=True, slots=True)
class Exchange:
    """Both directions at the asking end: what it sent and what it received."""

    sent: Tally = Tally()
    received: Tally = Tally()

    def __add__(self, other: Exchange) -> Exchange:
        return Exchange(self.sent + other.sent, self.received + other.received)

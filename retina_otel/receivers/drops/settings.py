"""Settings of the drops receiver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retina_otel.component import ByteSize, Settings
from retina_otel.receivers.drops.reasons import NO_DROPS


class DropsSettings(Settings):
    """Packets that the node's kernel drops, by reason, function and pair of ends."""

    exclude_reasons: tuple[str, ...] = tuple(NO_DROPS)
    """Reasons that are not counted as drops, by the kernel's name in lower case. What is given
    replaces the default; the ledger says how many were left out, by reason."""
    namespaces: Literal["all", "node"] = "all"
    """`all`: network namespaces of whatever lives on the machine; ends of a packet dropped in one
    that nobody knows stay unknown, since their addresses may be another cluster's. `node`: the
    agent's own and those of known pods."""
    max_entries: int = Field(default=16384, ge=16, le=1 << 20)
    """Different keys that one interval may count; more go through the ring, then they are lost, and
    counted. About 300 bytes of kernel memory for each."""
    ring_size: ByteSize = Field(default="256KiB", validate_default=True)
    """Rounded up to a power of two."""
    events: bool = True
    """One event for each pair of ends, reason and function in an interval."""

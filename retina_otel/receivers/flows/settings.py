"""Settings of the flows receiver."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from retina_otel.component import Settings
from retina_otel.model.durations import ByteSize, PositiveDuration


class InterfaceSettings(Settings):
    """Which interfaces are counted, and as what. Patterns are shell globs over interface names."""

    pods: list[str] | None = None
    """Interfaces behind which a pod lives. Default: every veth whose other end is in another
    network namespace."""
    uplinks: list[str] | None = None
    """Interfaces between the node and the outside. Default: those with a default route."""
    exclude: list[str] = Field(default_factory=list)
    """Interfaces that are never counted, whatever the other two say."""


class FlowsSettings(Settings):
    """Bytes, packets and TCP flags of each flow at the node's pod interfaces and uplinks."""

    interfaces: InterfaceSettings = InterfaceSettings()
    """Where packets are counted."""
    position: Literal["first", "last"] = "first"
    """Place among other programs of an interface. `first` counts what arrives, also what another
    program drops or redirects later; `last` counts what all others let pass."""
    hook: Literal["auto", "tcx", "clsact"] = "auto"
    """How programs are attached. `auto` takes tcx where the kernel has it (6.6), else clsact."""
    max_flows: Annotated[int, Field(ge=16, le=16_777_216)] = 131_072
    """Flows per address family and interval that have a row in the kernel. What exceeds it goes to
    the ring, and is counted as lost when that is full too. A row takes about 130 bytes."""
    cache_bytes: ByteSize = 24 << 20
    """Memory for the per-CPU caches in front of the flow tables, all CPUs together. Flows that
    have a place there cost half as much; those that have none are counted exactly too."""
    ring_bytes: ByteSize = 1 << 20
    """Memory of the ring that takes single packets when the flow table is full; a power of two."""
    initiator: bool = True
    """Remember who opened each TCP connection, for the attribute `retina.flow.initiator`."""
    events: Literal["off", "end", "interval"] = "off"
    """Events of flows, each for one direction of a connection at one interface. `interval`: one for
    each flow and interval in which it had packets. `end`: one for each flow when it ends, kept
    until then in a table of `max_flows`; the longest idle end early when it is full."""
    idle_timeout: PositiveDuration = Field(default="60s", validate_default=True)
    """With `events: end`, how long a flow has no packet before it counts as ended. TCP flows end
    earlier, one interval after FINs of both sides or a RST."""

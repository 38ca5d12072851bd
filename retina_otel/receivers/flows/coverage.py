"""Compares what was counted at each interface with the interface's own counters.

Interface counters are not one thing: a plain veth counts buffers, a device that segments in
software or receives through GRO counts packets of the wire, and what a veth's queue refuses is
counted as dropped after our hook has seen it. So the comparison is by packets, and by the law that
fits better.
"""

from __future__ import annotations

from collections.abc import Mapping

from retina_otel.model.interfaces import Interface
from retina_otel.receivers.flows.attachments import Attachment
from retina_otel.receivers.flows.tables import LedgerCounts


def compare(
    attachments: Mapping[int, Attachment],
    ledger: Mapping[tuple[int, bool], LedgerCounts],
    current: Mapping[int, Interface],
) -> dict[str, tuple[int, int]]:
    """Counted packets and the interface's own since the comparison began, in both directions.

    Equal means complete. Interfaces that carried nothing are left out.
    """
    compared = {}
    for ifindex, attachment in attachments.items():
        interface = current.get(ifindex)
        if interface is None or interface.stats is None or attachment.base is None:
            continue
        received = _since(interface.stats, attachment.base, "rx_packets")
        # The egress hook stands before the driver, which may refuse what we have counted.
        sent = _since(interface.stats, attachment.base, "tx_packets", "tx_dropped")
        if received + sent == 0:
            continue
        buffers = packets = 0
        for egress in (False, True):
            counts = ledger.get((ifindex, egress))
            if counts is None:
                continue
            earlier = attachment.ledger_base.get(egress, {})
            buffers += _since(counts, earlier, "buffers")
            packets += _since(counts, earlier, "packets")
        own = received + sent
        counted = min(buffers, packets, key=lambda count: abs(count - own))
        compared[interface.name] = counted, own
    return compared


def _since(stats: Mapping[str, int], base: Mapping[str, int], *names: str) -> int:
    return sum(stats.get(name, 0) - base.get(name, 0) for name in names)

"""`drops`: packets that the node's kernel threw away, by reason, function, protocol and ends.

Every call of kfree_skb is accounted for: it is a row, or left out for a reason that the ledger
names, or lost and counted. Needs tp_btf, and a kernel that says why it drops (Linux 5.17).
"""

from __future__ import annotations

from retina_otel.component import Component, ComponentKind
from retina_otel.model import signals
from retina_otel.receivers.drops.receiver import DropsReceiver
from retina_otel.receivers.drops.settings import DropsSettings

COMPONENT = Component(
    type="drops",
    kind=ComponentKind.RECEIVER,
    stability="beta",
    Settings=DropsSettings,
    create=DropsReceiver,
    signals=frozenset({"metrics", "logs"}),
    declares=(signals.DROP_PACKETS, signals.DROP_IO, signals.DROP_EVENT),
    requires=("CAP_BPF", "CAP_PERFMON"),
)

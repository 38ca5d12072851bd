"""The equalities that the demo states: what was sent, what interfaces counted, what the agent says.

They are exact once all senders have stopped and the agent has collected what they sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from retina_otel.cli.demo.figures import DROPS_LEDGER, EGRESS, FLOWS_LEDGER, INGRESS, Figures
from retina_otel.cli.demo.otlp import event_sum, last_sum
from retina_otel.model.signals import (
    DROP_EVENT,
    DROP_PACKETS,
    EVENT_PACKETS,
    FLOW_PACKETS,
    K8S_POD_NAME,
)
from retina_otel.testing.demo_world import DemoWorld, Sender, pod_name
from retina_otel.testing.lab import UPLINK
from retina_otel.testing.namespaces import Counters
from retina_otel.testing.tally import Tally

Pair = tuple[str, str, str]
"""Source, destination, transport."""


@dataclass(frozen=True, slots=True)
class Equality:
    """Numbers from sources that know nothing of each other, and must be the same."""

    group: str
    what: str
    terms: tuple[tuple[str, int], ...]
    """Who says it, and the number."""

    @property
    def holds(self) -> bool:
        return len({number for _, number in self.terms}) == 1


@dataclass(frozen=True, slots=True)
class Wires:
    """Counters of the node's interfaces, since they were made."""

    pods: Mapping[str, Counters]
    """The node's side of each pod's wire: rx is what the pod sent."""
    uplink: Counters

    @property
    def packets(self) -> int:
        """All that passed, in both directions, at every interface."""
        return sum(each.rx_packets + each.tx_packets for each in [*self.pods.values(), self.uplink])


def read_wires(world: DemoWorld) -> Wires:
    return Wires(
        {pod_name(pod): pod.host_counters() for pod in world.lab.pods},
        world.lab.node.counters(UPLINK),
    )


def tallies(senders: Iterable[Sender]) -> dict[Pair, Tally]:
    """What was sent from each end to each other, answers included."""
    sums: defaultdict[Pair, Tally] = defaultdict(Tally)
    for sender in senders:
        talk, total = sender.talk, sender.total
        sums[talk.source, talk.destination, talk.transport] += total.sent
        if total.received.packets:
            sums[talk.destination, talk.source, talk.transport] += total.received
    return dict(sums)


POD_NAMES = frozenset(f"{end}.{K8S_POD_NAME.name}" for end in ("source", "destination"))


def equalities(world: DemoWorld, seen: Figures, wires: Wires) -> list[Equality]:
    sent = tallies(world.senders)
    return [
        *_pairs(sent, seen, set(wires.pods)),
        *_interfaces(sent, seen, wires),
        *_drops(world.senders, seen),
        *_ledger(seen, wires),
    ]


def file_equalities(path: Path, seen: Figures) -> list[Equality]:
    """What the agent wrote, beside what it said; to be read when it has ended."""
    flows, drops = sum(seen.packets.values()), sum(seen.pod_drops.values())
    events = event_sum(path, DROP_EVENT.name, EVENT_PACKETS.name, having=POD_NAMES)
    return [
        Equality(
            "OTLP file",
            "packets of all flows",
            (("/metrics", flows), ("OTLP file", last_sum(path, FLOW_PACKETS.name))),
        ),
        Equality(
            "OTLP file",
            "packets of pods dropped",
            (
                ("/metrics", drops),
                ("OTLP file", last_sum(path, DROP_PACKETS.name, having=POD_NAMES)),
                ("events in it", events),
            ),
        ),
    ]


def _pairs(sent: Mapping[Pair, Tally], seen: Figures, pods: set[str]) -> Iterable[Equality]:
    for (source, destination, transport), tally in sorted(sent.items()):
        at = [
            (f"seen {verb} {pod}", seen.of_pair(source, destination, transport, direction))
            for pod, direction, verb in (
                (source, EGRESS, "leaving"),
                (destination, INGRESS, "entering"),
            )
            if pod in pods
        ]
        what = f"{source} → {destination} {transport}"
        for position, unit, number in ((0, "packets", tally.packets), (1, "bytes", tally.bytes)):
            terms = (("sender", number), *((who, pair[position]) for who, pair in at))
            yield Equality("flows", f"{what}, {unit}", terms)


def _interfaces(sent: Mapping[Pair, Tally], seen: Figures, wires: Wires) -> Iterable[Equality]:
    for pod, counters in wires.pods.items():
        left = sum((t for (source, _, _), t in sent.items() if source == pod), Tally())
        came = sum((t for (_, to, _), t in sent.items() if to == pod), Tally())
        for verb, tally, agent, packets, octets in (
            ("left", left, seen.leaving(pod), counters.rx_packets, counters.rx_bytes),
            ("entered", came, seen.entering(pod), counters.tx_packets, counters.tx_bytes),
        ):
            for unit, numbers in (
                ("packets", (packets, agent[0], tally.packets)),
                ("bytes", (octets, agent[1], tally.bytes)),
            ):
                names = ("interface", "agent", "senders")
                yield Equality(
                    "interfaces",
                    f"{unit} that {verb} {pod}",
                    tuple(zip(names, numbers, strict=True)),
                )


def _drops(senders: Iterable[Sender], seen: Figures) -> Iterable[Equality]:
    expected: defaultdict[tuple[str, Pair], int] = defaultdict(int)
    for sender in senders:
        talk = sender.talk
        if talk.dropped_as:
            pair = (talk.source, talk.destination, talk.transport)
            expected[talk.dropped_as, pair] += sender.total.sent.packets
    for (reason, pair), number in sorted(expected.items()):
        source, destination, transport = pair
        yield Equality(
            "drops",
            f"{reason}: {source} → {destination} {transport}",
            (("sender", number), ("agent", seen.dropped(reason, *pair))),
        )


def _ledger(seen: Figures, wires: Wires) -> Iterable[Equality]:
    flows = seen.books.get(FLOWS_LEDGER)
    yield Equality(
        "ledger",
        "packets at all interfaces",
        (
            ("interfaces", wires.packets),
            ("seen by flows", flows.accounts.get("seen", 0) if flows else 0),
        ),
    )
    for name in (FLOWS_LEDGER, DROPS_LEDGER):
        receiver = name.removeprefix("receiver/")
        accounts = seen.books[name].accounts if name in seen.books else {}
        out = {account: number for account, number in accounts.items() if account != "seen"}
        named = " + ".join(sorted(account for account, number in out.items() if number))
        yield Equality(
            "ledger",
            f"{receiver}: seen = {named or 'nothing'}",
            (("seen", accounts.get("seen", 0)), ("accounts", sum(out.values()))),
        )
        yield Equality(
            "ledger", f"{receiver}: lost", (("lost", accounts.get("lost", 0)), ("wanted", 0))
        )

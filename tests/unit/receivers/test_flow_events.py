"""Events of flows against sums over the rows that they were made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.kernel.bpf.jiffies import Anchor
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.model.signals import FLOW_END_REASON, FLOW_IO, FLOW_PACKETS
from retina_otel.receivers.flows import columns
from retina_otel.receivers.flows.events import batch, flows_of
from retina_otel.receivers.flows.live import END_REASONS, LiveFlows
from retina_otel.receivers.flows.rows import FIN, N_FLAGS, NO_ACK, RST, SYN, FlowRows

WINDOW = Window(0, 1)
NAMES = {2: "veth-web", 3: "veth-api", 9: "eth0"}
UPLINKS = np.array([9], np.uint32)
TICK_NS = 4_000_000
SECOND = 10**9
TCP, UDP, ICMP = 6, 17, 1
EGRESS, LOCAL_SOCKET = 0x100, 0x200
BITS = {"fin": FIN, "syn": SYN, "rst": RST, "no_ack": NO_ACK}
IDLE_S = 60


@dataclass(frozen=True)
class Row:
    """A row as the kernel may have it. Ends are small numbers: the last byte of an address."""

    source: int = 1
    destination: int = 2
    source_port: int = 40000
    destination_port: int = 443
    protocol: int = TCP
    ipv6: bool = False
    interface: int = 2
    egress: bool = False
    packets: int = 1
    bytes: int = 60
    first: int = 100
    last: int = 100
    flags: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        leaves = self.egress if self.interface == 9 else not self.egress
        return (
            NAMES[self.interface],
            "egress" if leaves else "ingress",
            {TCP: "tcp", UDP: "udp", ICMP: "icmp"}[self.protocol],
            "ipv6" if self.ipv6 else "ipv4",
            (self.source, self.source_port),
            (self.destination, self.destination_port),
        )


def flow_rows(rows: Sequence[Row]) -> FlowRows:
    flags = np.zeros((len(rows), N_FLAGS), np.uint32)
    for number, row in enumerate(rows):
        for name in row.flags:
            flags[number, BITS[name]] = 1

    def column(name: str, dtype: type[np.generic]) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype)

    mapped = np.array([0 if row.ipv6 else 0xFFFF << 32 for row in rows], np.uint64)
    return FlowRows(
        source_hi=np.zeros(len(rows), np.uint64),
        source_lo=mapped | column("source", np.uint64),
        destination_hi=np.zeros(len(rows), np.uint64),
        destination_lo=mapped | column("destination", np.uint64),
        source_port=column("source_port", np.uint16),
        destination_port=column("destination_port", np.uint16),
        meta=np.array(
            [
                row.interface << 10
                | (EGRESS if row.egress else 0)
                | row.protocol
                # Only what a local socket has sent is counted at an uplink's egress.
                | (LOCAL_SOCKET if row.egress and row.interface == 9 else 0)
                for row in rows
            ],
            np.uint32,
        ),
        ipv6=column("ipv6", np.bool_),
        packets=column("packets", np.int64),
        bytes=column("bytes", np.int64),
        first=column("first", np.uint32),
        last=column("last", np.uint32),
        flags=flags,
    )


def records(rows: Sequence[Row], jiffies: int = 1000) -> tuple[np.ndarray, MetricBatch | None]:
    """Records of a generation that ended at `jiffies`, which is at as many ticks of monotonic
    time."""
    table = flow_rows(rows)
    made = columns.batches(table, WINDOW, UPLINKS, NAMES, None)
    if not made:
        return np.empty(0, LiveFlows(1, 1).finish()[0].dtype), None
    anchor = Anchor(jiffies & 0xFFFFFFFF, jiffies * TICK_NS, TICK_NS)
    return flows_of(table, made[0], anchor), made[0]


@dataclass(frozen=True)
class Told:
    """One event."""

    key: tuple[object, ...]
    packets: int
    bytes: int
    first: int
    last: int
    flags: str | None
    reason: str | None


def told(events: EventBatch) -> list[Told]:
    def values(name: str) -> list[object]:
        column = events.own.get(name)
        if column is None:
            return [None] * len(events)
        if isinstance(column, Column):
            return [column.values[code] if code >= 0 else None for code in column.codes]
        return list(column)

    source, destination = events.source, events.destination
    assert source is not None
    assert destination is not None
    # The end that is here has the interface, the other one has none.
    leaves = np.array(values("network.interface.direction")) == "egress"
    assert ((source.ifindex != 0) == leaves).all()
    assert ((destination.ifindex != 0) == ~leaves).all()
    keys = zip(
        values("network.interface.name"),
        values("network.interface.direction"),
        values("network.transport"),
        values("network.type"),
        zip((source.lo & np.uint64(0xFF)).tolist(), source.port.tolist(), strict=True),
        zip((destination.lo & np.uint64(0xFF)).tolist(), destination.port.tolist(), strict=True),
        strict=True,
    )
    return [
        Told(*one)
        for one in zip(
            keys,
            values("retina.event.packets"),
            values("retina.event.bytes"),
            values("retina.event.first_seen"),
            values("retina.event.last_seen"),
            values("retina.tcp.flags"),
            values("retina.flow.end_reason"),
            strict=True,
        )
    ]


def interval(rows: Sequence[Row], jiffies: int = 1000, offset_ns: int = 0) -> list[Told]:
    return told(batch(records(rows, jiffies)[0], None, WINDOW, NAMES, offset_ns))


class Ends:
    """A table of living flows that generations are fed to."""

    def __init__(self, capacity: int = 1000, idle_s: float = IDLE_S) -> None:
        self.live = LiveFlows(capacity, int(idle_s * SECOND))
        self.counted: Counter[str] = Counter()

    def generation(self, *rows: Row, jiffies: int = 1000) -> list[Told]:
        flows, volumes = records(rows, jiffies)
        if volumes is not None:
            for metric in (FLOW_PACKETS, FLOW_IO):
                self.counted[metric.name] += int(volumes.values[metric].sum())  # type: ignore[union-attr]
        return self._told(self.live.update(flows, jiffies * TICK_NS))

    def finish(self) -> list[Told]:
        return self._told(self.live.finish())

    def reasons(self, *rows: Row, jiffies: int = 1000) -> Counter[str]:
        return Counter(str(one.reason) for one in self.generation(*rows, jiffies=jiffies))

    @staticmethod
    def _told(ended: tuple[np.ndarray, np.ndarray]) -> list[Told]:
        return told(batch(*ended, WINDOW, NAMES, 0))


ROWS = st.builds(
    Row,
    source=st.integers(1, 3),
    destination=st.integers(1, 3),
    source_port=st.sampled_from([443, 40000]),
    destination_port=st.sampled_from([443, 40000]),
    protocol=st.sampled_from([TCP, UDP, ICMP]),
    ipv6=st.booleans(),
    interface=st.sampled_from(list(NAMES)),
    egress=st.booleans(),
    packets=st.integers(1, 1000),
    bytes=st.integers(60, 2**40),
    first=st.integers(100, 199),
    last=st.integers(200, 299),
    flags=st.sets(st.sampled_from(["fin", "syn", "rst"])).map(tuple),
)
FLAG_ROWS = ROWS.map(
    lambda row: Row(**{**vars(row), "packets": 0, "bytes": 0, "first": 0, "last": 0})
)


def sums(rows: Sequence[Row]) -> dict[tuple[object, ...], tuple[int, int, int, int]]:
    by_key = defaultdict(list)
    for row in rows:
        if row.packets:
            by_key[row.key].append(row)
    return {
        key: (
            sum(r.packets for r in own),
            sum(r.bytes for r in own),
            min(r.first for r in own) * TICK_NS,
            max(r.last for r in own) * TICK_NS,
        )
        for key, own in by_key.items()
    }


@given(st.lists(ROWS | FLAG_ROWS, min_size=1, max_size=60))
def test_an_interval_has_one_event_for_each_flow_with_all_of_its_rows(rows: list[Row]) -> None:
    events = interval(rows)
    seen = {one.key: (one.packets, one.bytes, one.first, one.last) for one in events}
    assert seen == sums(rows)
    assert len(events) == len(seen)


@given(
    st.lists(st.lists(ROWS, max_size=30), max_size=8),
    st.integers(1, 40),
    st.sampled_from([TICK_NS / SECOND, 1, IDLE_S]),
)
def test_events_of_a_flow_add_up_to_its_rows_however_these_are_spread_over_generations(
    generations: list[list[Row]], capacity: int, idle_s: float
) -> None:
    ends = Ends(capacity, idle_s)
    events = []
    for number, rows in enumerate(generations):
        events += ends.generation(*rows, jiffies=300 + 100 * number)
        assert len(ends.live) <= capacity
    events += ends.finish()
    assert len(ends.live) == 0
    packets: Counter[object] = Counter()
    octets: Counter[object] = Counter()
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    for one in events:
        assert one.first <= one.last
        packets[one.key] += one.packets
        octets[one.key] += one.bytes
        first[one.key] = min(one.first, first.get(one.key, one.first))
        last[one.key] = max(one.last, last.get(one.key, one.last))
    seen = {key: (packets[key], octets[key], first[key], last[key]) for key in packets}
    assert seen == sums([row for rows in generations for row in rows])
    assert ends.counted[FLOW_PACKETS.name] == packets.total()
    assert ends.counted[FLOW_IO.name] == octets.total()


def there(**more: object) -> Row:
    return Row(**more)  # type: ignore[arg-type]


def back(**more: object) -> Row:
    """The other direction of the same connection at the same interface."""
    return Row(2, 1, 443, 40000, egress=True, **more)  # type: ignore[arg-type]


def test_fins_of_both_sides_end_both_directions_after_one_quiet_generation() -> None:
    ends = Ends()
    assert ends.reasons(there(flags=("syn",)), back()) == {}
    assert ends.reasons(there(flags=("fin",)), back()) == {}
    assert ends.reasons(back(flags=("fin",))) == {}
    assert ends.reasons() == {"finished": 2}
    assert ends.finish() == []


def test_packets_after_the_fins_put_off_the_end() -> None:
    ends = Ends()
    assert ends.reasons(there(flags=("fin",)), back(flags=("fin",))) == {}
    assert ends.reasons(there()) == {}
    assert ends.reasons() == {"finished": 2}


def test_a_fin_of_one_side_alone_does_not_end_the_connection() -> None:
    ends = Ends()
    ends.generation(there(flags=("fin",)), back())
    assert ends.reasons() == {}
    # At another interface it is another flow: its FIN says nothing here.
    ends.generation(back(interface=3, flags=("fin",)))
    assert ends.reasons() == {}
    assert Counter(one.reason for one in ends.finish()) == {"shutdown": 3}


def test_a_reset_of_one_side_ends_both_directions() -> None:
    ends = Ends()
    assert ends.reasons(there(flags=("syn",)), back(flags=("rst",))) == {}
    assert ends.reasons() == {"reset": 2}


def test_a_reset_that_nobody_else_was_seen_of_ends_its_own_direction() -> None:
    ends = Ends()
    assert ends.reasons(there(flags=("rst",)), there(source=3)) == {}
    assert ends.reasons() == {"reset": 1}


def test_a_flow_without_packets_for_the_idle_timeout_ends() -> None:
    ends = Ends(idle_s=1)
    assert ends.reasons(there(protocol=UDP, first=700, last=751)) == {}
    assert ends.reasons(jiffies=1000) == {}
    assert ends.reasons(jiffies=1001) == {"idle": 1}


def test_the_longest_idle_are_evicted_when_the_table_is_full() -> None:
    ends = Ends(capacity=3)
    rows = [there(source=number, last=200 + number) for number in range(10)]
    evicted = ends.generation(*rows)
    assert {one.reason for one in evicted} == {"evicted"}
    assert {one.last for one in evicted} == {(200 + number) * TICK_NS for number in range(7)}
    assert len(ends.live) == 3


def test_slots_are_used_again() -> None:
    ends = Ends(capacity=2000, idle_s=1)
    for number in range(30):
        rows = [
            there(source_port=port, first=1000 * number, last=1000 * number) for port in range(1000)
        ]
        ended = ends.generation(*rows, jiffies=1000 * number)
        assert [one.reason for one in ended] == []
        assert len(ends.generation(jiffies=1000 * number + 250)) == 1000
    assert len(ends.live._flows) == 1024


def test_flags_are_the_union_over_rows_and_generations() -> None:
    rows = [there(flags=("syn",)), there(packets=5), there(packets=0, flags=("no_ack",))]
    assert [one.flags for one in interval(rows)] == ["syn|ack"]
    assert [one.flags for one in interval(rows[:1])] == ["syn"]
    assert [one.flags for one in interval([there(protocol=UDP)])] == [None]
    assert [one.flags for one in interval([there(source_port=0, destination_port=0)])] == [None]
    ends = Ends()
    ends.generation(there(flags=("syn",)))
    ends.generation(there(packets=2, flags=("fin",)))
    assert [one.flags for one in ends.finish()] == ["fin|syn|ack"]


def test_times_are_right_while_jiffies_wrap() -> None:
    wrap = 1 << 32
    rows = [there(first=wrap - 50, last=wrap - 1), there(first=3, last=5)]
    (event,) = interval(rows, jiffies=wrap + 10, offset_ns=7)
    assert event.first == (wrap - 50) * TICK_NS + 7
    assert event.last == (wrap + 5) * TICK_NS + 7


def test_every_reason_is_documented() -> None:
    assert FLOW_END_REASON.examples == END_REASONS
    assert all(f"`{reason}`" in FLOW_END_REASON.brief for reason in END_REASONS)

"""What the interfaces receiver makes of counters: nothing left out, nothing counted twice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from retina_otel.component import Context
from retina_otel.model.batches import Window
from retina_otel.model.interfaces import Change, ChangeKind, Interface
from retina_otel.receivers.interfaces import FIELDS, InterfacesReceiver, InterfacesSettings

UAPI = Path("/usr/include/linux/if_link.h")


class Kernel:
    """The interface registry, with counters that the test sets."""

    def __init__(self) -> None:
        self.interfaces: dict[int, Interface] = {}
        self.callback: Any = None

    def set(self, ifindex: int, **counters: int) -> Interface:
        made = Interface(
            ifindex, f"if{ifindex}", "", True, False, 1500, 0, -1, 0,
            stats=dict.fromkeys(FIELDS, 0) | counters,
        )  # fmt: skip
        self.interfaces[ifindex] = made
        return made

    def current(self) -> Mapping[int, Interface]:
        return self.interfaces

    def unsubscribe(self, callback: Any) -> None: ...

    def subscribe(self, callback: Any) -> None:
        self.callback = callback

    def addresses_in(self, netnsid: int) -> Sequence[str]:
        raise AssertionError(netnsid)

    def read_stats(self) -> Mapping[int, Interface]:
        return self.interfaces


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def started(kernel: Kernel) -> InterfacesReceiver:
    context = cast(Context, SimpleNamespace(interfaces=kernel))
    receiver = InterfacesReceiver(InterfacesSettings(), context)
    receiver.start()
    return receiver


def deltas(receiver: InterfacesReceiver, metric: str) -> list[tuple[str, ...]]:
    """(interface, other attributes..., delta) of each point."""
    points: list[tuple[str, ...]] = []
    for batch in receiver.collect(Window(0, 1), 0).metrics:
        for found, column in batch.values.items():
            if found.name == metric:
                assert isinstance(column, np.ndarray)
                own = [[c.values[i] if i >= 0 else "" for i in c.codes] for c in batch.own.values()]
                points += zip(*own, map(str, column.tolist()), strict=True)
    return points


def test_every_counter_of_the_kernels_record_is_reported() -> None:
    if not UAPI.exists():
        pytest.skip("the kernel's headers are not installed")
    record = re.search(r"struct rtnl_link_stats64 \{(.*?)\};", UAPI.read_text(), re.DOTALL)
    assert record
    fields = re.findall(r"__u64\s+(\w+);", re.sub(r"/\*.*?\*/", "", record[1], flags=re.DOTALL))
    assert set(fields) - set(FIELDS) == set()


def test_a_counter_that_starts_over_counts_from_zero(kernel: Kernel) -> None:
    kernel.set(3, rx_bytes=1000, tx_bytes=50)
    receiver = started(kernel)
    kernel.set(3, rx_bytes=7, tx_bytes=53)
    assert deltas(receiver, "system.network.io") == [
        ("if3", "receive", "7"),
        ("if3", "transmit", "3"),
    ]


def test_counters_beyond_63_bits_still_differ_rightly(kernel: Kernel) -> None:
    kernel.set(3, rx_bytes=(1 << 63) + 5)
    receiver = started(kernel)
    kernel.set(3, rx_bytes=(1 << 63) + 16)
    assert deltas(receiver, "system.network.io")[0] == ("if3", "receive", "11")


def test_kinds_of_errors_appear_when_there_is_one(kernel: Kernel) -> None:
    kernel.set(3)
    receiver = started(kernel)
    assert deltas(receiver, "retina.interface.errors") == []
    kernel.set(3, rx_fifo_errors=2, tx_fifo_errors=3, rx_crc_errors=5)
    assert sorted(deltas(receiver, "retina.interface.errors")) == [
        ("if3", "receive", "crc", "5"),
        ("if3", "receive", "fifo", "2"),
        ("if3", "transmit", "fifo", "3"),
    ]


def test_an_older_kernels_shorter_record_is_read(kernel: Kernel) -> None:
    short = kernel.set(3, rx_bytes=11)
    assert short.stats
    stats = {name: value for name, value in short.stats.items() if "otherhost" not in name}
    receiver = started(kernel)
    kernel.interfaces[3] = replace(short, stats=stats | {"rx_bytes": 13})
    assert deltas(receiver, "system.network.io")[0] == ("if3", "receive", "2")


def test_a_removed_interface_ends_with_its_last_word_once(kernel: Kernel) -> None:
    last = kernel.set(3, tx_bytes=10)
    receiver = started(kernel)
    del kernel.interfaces[3]
    assert last.stats
    gone = replace(last, stats={**last.stats, "tx_bytes": 17})
    kernel.callback(Change(ChangeKind.REMOVED, gone))
    assert deltas(receiver, "system.network.io")[1] == ("if3", "transmit", "7")
    assert deltas(receiver, "system.network.io") == []


def test_a_number_that_is_used_again_is_another_interface(kernel: Kernel) -> None:
    first = kernel.set(3, tx_bytes=100)
    receiver = started(kernel)
    kernel.callback(Change(ChangeKind.REMOVED, first))
    second = kernel.set(3, tx_bytes=130)
    kernel.callback(Change(ChangeKind.ADDED, second))
    total = sum(int(point[-1]) for point in deltas(receiver, "system.network.io"))
    assert total == 130

"""Ring buffers: each record once, whole and in order, also while the kernel writes."""

from __future__ import annotations

import select
import threading

import numpy as np
import pytest

from retina_otel.errors import RingError
from retina_otel.kernel.bpf.ring import Ring


def ring_of(selftest, name="rt_ring") -> Ring:
    handle = selftest.maps[name]
    return Ring(handle.fd, handle.value_dtype, handle.max_entries)


def expect_whole(records):
    assert ((records["sequence"] * 2654435761).astype(np.uint32) == records["check"]).all()


@pytest.mark.kernels
def test_records_come_once_and_in_order(selftest):
    ring = ring_of(selftest)
    selftest.ask("rt_fill_ring", 100, 1009)

    records = ring.drain()

    assert records["sequence"].tolist() == list(range(100, 1109))
    expect_whole(records)
    assert len(ring.drain()) == 0


def test_discarded_records_are_left_out(selftest):
    ring = ring_of(selftest)
    selftest.ask("rt_fill_ring", 0, 1000, 7)

    assert ring.drain()["sequence"].tolist() == [n for n in range(1000) if n % 7]


def test_the_end_of_the_memory_is_no_seam(selftest):
    ring = ring_of(selftest)
    first = 0
    for _ in range(50):  # 24 bytes a record do not divide 64 KiB
        selftest.ask("rt_fill_ring", first, 2003)
        records = ring.drain()
        assert records["sequence"].tolist() == list(range(first, first + 2003))
        expect_whole(records)
        first += 2003
    assert int(selftest.globals.rt_ring_full) == 0


def test_a_full_ring_keeps_the_oldest_and_the_program_counts_the_rest(selftest):
    ring = ring_of(selftest)
    selftest.ask("rt_fill_ring", 0, 5000)

    records = ring.drain()

    assert len(records) + int(selftest.globals.rt_ring_full) == 5000
    assert records["sequence"].tolist() == list(range(len(records)))
    assert len(records) == 65536 // 24


@pytest.mark.kernels
@pytest.mark.parametrize("every", [0, 5])
def test_a_producer_on_another_cpu_loses_nothing_that_is_not_counted(load, every):
    selftest = load(max_entries={"rt_ring": 1 << 18})
    ring = ring_of(selftest)
    rounds, each = 150, 5000

    def produce():
        for number in range(rounds):
            selftest.ask("rt_fill_ring", number * each, each, every)

    thread = threading.Thread(target=produce)
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(ring.drain().copy())
    thread.join()
    seen.append(ring.drain().copy())

    records = np.concatenate(seen)
    expect_whole(records)
    sequence = records["sequence"].astype(np.int64)
    assert (np.diff(sequence) > 0).all()
    if every == 0:
        assert len(records) + int(selftest.globals.rt_ring_full) == rounds * each
    else:
        assert not (sequence % each % every == 0).any()


@pytest.mark.kernels
def test_a_record_not_yet_committed_holds_back_those_behind_it(selftest, held):
    ring = ring_of(selftest)
    with held(selftest.programs["rt_hold"], selftest.globals):
        selftest.ask("rt_fill_ring", 0, 3)
        assert len(ring.drain()) == 0

    records = ring.drain()
    assert records["sequence"].tolist() == [1_000_000, 0, 1, 2]
    expect_whole(records)


def test_records_of_odd_length_keep_their_bytes(selftest):
    ring = ring_of(selftest, "rt_odd_ring")
    for number in range(3):
        selftest.ask("rt_fill_odd_ring", 1 << 40 | number, number)

    assert ring.drain().tolist() == [(1 << 40 | number, number, 9) for number in range(3)]


def test_a_record_of_another_length_is_an_error(selftest):
    ring = ring_of(selftest, "rt_odd_ring")
    selftest.ask("rt_fill_wrong_length", 1)

    with pytest.raises(RingError, match=r"a record of 8 bytes, not 13"):
        ring.drain()


def test_a_ring_with_records_can_be_polled(selftest):
    ring = ring_of(selftest, "rt_odd_ring")
    poller = select.epoll()
    poller.register(ring.fd, select.EPOLLIN)

    assert poller.poll(0) == []
    selftest.ask("rt_fill_odd_ring", 1, 2)
    assert poller.poll(10) == [(ring.fd, select.EPOLLIN)]
    ring.drain()
    assert poller.poll(0) == []
    poller.close()


def test_another_size_than_the_maps_is_refused(selftest):
    with pytest.raises(RingError, match="mmap"):
        Ring(selftest.maps["rt_ring"].fd, np.uint64, 1 << 20)


def test_records_stay_after_the_ring_is_closed(selftest):
    ring = ring_of(selftest)
    selftest.ask("rt_fill_ring", 0, 10)
    records = ring.drain()

    ring.close()

    assert records["sequence"].tolist() == list(range(10))

"""Maps are read whole, and exactly: no entry lost, none twice."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from retina_otel.errors import MapError
from retina_otel.kernel import syscall
from retina_otel.kernel.bpf import maps, testrun
from retina_otel.kernel.bpf.maps import ArrayMap, HashMap, Variables, mmap_array, set_inner_map

N = 50_021
FRAME = bytes(64)


def hash_of(selftest, **options) -> HashMap:
    handle = selftest.maps["rt_hash"]
    return HashMap(handle.fd, handle.key_dtype, handle.value_dtype, handle.max_entries, **options)


def expect_filled(keys, values, first, count):
    order = np.argsort(keys["a"])
    numbers = np.arange(first, first + count)
    assert keys["a"][order].tolist() == numbers.tolist()
    assert values["packets"][order].tolist() == (numbers * 3).tolist()
    assert set(values["sign"].tolist()) <= {-1}


@pytest.mark.kernels
@pytest.mark.parametrize("chunk", [1, 7, 512, 4096])
def test_a_drain_takes_each_entry_once_and_leaves_none(selftest, chunk):
    table = hash_of(selftest, chunk=chunk)
    count = N if chunk >= 512 else 997
    assert selftest.ask("rt_fill_hash", 10, count) == 0

    expect_filled(*table.drain(), 10, count)

    assert [len(part) for part in table.drain()] == [0, 0]


def test_a_read_leaves_the_entries_in_place(selftest):
    table = hash_of(selftest)
    selftest.ask("rt_fill_hash", 0, N)

    expect_filled(*table.read(), 0, N)
    expect_filled(*table.read(), 0, N)


def test_a_full_map_is_drained_whole(load):
    selftest = load(max_entries={"rt_hash": 5000})
    assert selftest.ask("rt_fill_hash", 0, 6000) == 0

    keys, _ = hash_of(selftest).drain()

    assert len(np.unique(keys["a"])) == len(keys) == 5000


def test_reading_one_by_one_gives_the_same_as_batches(selftest):
    table = hash_of(selftest)
    selftest.ask("rt_fill_hash", 100, 2003)
    keys, values = (part.copy() for part in table.read())
    table._batches = False

    one_by_one = table.read()
    assert sorted(one_by_one[0]["a"].tolist()) == sorted(keys["a"].tolist())
    expect_filled(*table.drain(), 100, 2003)
    assert len(table.read()[0]) == 0
    expect_filled(keys, values, 100, 2003)


def test_drains_while_a_program_inserts_lose_and_repeat_nothing(selftest):
    table = hash_of(selftest)
    rounds, each = 40, 1009

    def insert():
        for number in range(rounds):
            assert selftest.ask("rt_fill_hash", number * each, each) == 0

    thread = threading.Thread(target=insert)
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(table.drain()[0]["a"].copy())
    thread.join()
    seen.append(table.drain()[0]["a"].copy())

    assert np.sort(np.concatenate(seen)).tolist() == list(range(rounds * each))


def test_entries_are_put_got_and_deleted(selftest):
    table = hash_of(selftest)
    key = (1, 2, 3, [3, 0])
    value = (5, 6, 1, [(1, [1, 2, 3], b"ab"), (2, [0, 0, 0], b"")], -4)

    assert table.get(key) is None
    assert table.put(key, value)
    assert not table.put(key, value, maps.NOEXIST)
    assert table.get(key)["packets"] == 5
    assert table.get(key)["inner"]["name"].tolist() == [b"ab", b""]
    assert table.get(key)["sign"] == -4
    assert table.delete(key)
    assert not table.delete(key)
    assert not table.put(key, value, maps.EXIST)


def test_keys_that_were_drained_can_be_put_back_and_deleted_at_once(selftest):
    table = hash_of(selftest)
    selftest.ask("rt_fill_hash", 0, 1000)
    keys, values = (part.copy() for part in table.drain())

    table.put_many(keys, values)
    expect_filled(*table.read(), 0, 1000)
    absent = keys[:3].copy()
    absent["a"] += 5000

    # numpy's copies hold anything in the padding of the key: that must not matter.
    keys.view(np.uint8).reshape(len(keys), 8)[:, 5] = 0xAA
    mixed = np.concatenate([absent[:1], keys[:400], absent[1:], keys[400:500]])
    assert table.delete_many(mixed) == 500
    assert len(table.read()[0]) == 500


def test_a_full_map_refuses_with_a_remedy(load):
    selftest = load(max_entries={"rt_hash": 1})
    table = hash_of(selftest)
    blank = np.zeros(1, table.value_dtype)[0]
    table.put((1, 0, 0, [0, 0]), blank)

    with pytest.raises(MapError, match=r"E2BIG.*larger than 1 entries"):
        table.put((2, 0, 0, [0, 0]), blank)


def test_values_per_cpu_have_a_column_for_each(selftest):
    handle = selftest.maps["rt_percpu"]
    table = HashMap(
        handle.fd, handle.key_dtype, handle.value_dtype, handle.max_entries, per_cpu=True
    )
    cpus = maps.possible_cpus()
    expected = list(range(100, 100 + cpus))
    table.put(5, expected)

    assert table.get(5).tolist() == expected
    keys, values = table.drain()
    assert keys.tolist() == [5]
    assert values.tolist() == [expected]
    assert table.drain()[1].shape == (0, cpus)


@pytest.mark.kernels
def test_a_mapped_array_shows_what_is_stored_and_stores_what_is_written(selftest):
    handle = selftest.maps["rt_array"]
    array = ArrayMap(handle.fd, handle.value_dtype, handle.max_entries)
    live = mmap_array(handle.fd, handle.value_dtype, handle.max_entries, writable=True)

    live["packets"][3] = 77
    assert array.get(3)["packets"] == 77
    blank = np.zeros(1, handle.value_dtype)
    blank["packets"] = 13
    array.put(15, blank[0])
    assert live["packets"].tolist() == [0, 0, 0, 77, *[0] * 11, 13]


def test_a_read_only_mapping_refuses_to_be_written(selftest):
    handle = selftest.maps["rt_array"]
    live = mmap_array(handle.fd, handle.value_dtype, handle.max_entries)

    with pytest.raises(ValueError, match="read-only"):
        live["packets"][0] = 1


def test_elements_smaller_than_eight_bytes_are_found_at_their_places():
    fd = maps.create_map(maps.TYPE_ARRAY, 4, 4, 3, flags=maps.FLAG_MMAPABLE)
    array = ArrayMap(fd, np.uint32, 3)
    for at in range(3):
        array.put(at, 10 + at)

    assert mmap_array(fd, np.uint32, 3).tolist() == [10, 11, 12]
    syscall.close_quietly(fd)


@pytest.mark.parametrize("size", [8, 24])
def test_part_of_an_array_can_be_mapped(size):
    fd = maps.create_map(maps.TYPE_ARRAY, 4, size, 2000, flags=maps.FLAG_MMAPABLE)
    words = np.dtype((np.uint64, size // 8))
    whole = mmap_array(fd, np.uint64, 2000 * size // 8, writable=True).reshape(2000, -1)
    whole[:] = np.arange(2000 * size // 8).reshape(2000, -1)

    for first, n in ((0, 2000), (512, 512), (171, 3), (1999, 1)):
        assert np.array_equal(
            mmap_array(fd, np.dtype([("w", words)]), n, first=first)["w"].reshape(n, -1),
            whole[first : first + n],
        )
    syscall.close_quietly(fd)


def test_a_map_that_cannot_be_mapped_says_what_is_missing(selftest):
    with pytest.raises(MapError, match="BPF_F_MMAPABLE"):
        mmap_array(selftest.maps["rt_hash"].fd, np.uint64, 1)


def test_an_index_behind_the_end_is_an_error(selftest):
    handle = selftest.maps["rt_array"]
    array = ArrayMap(handle.fd, handle.value_dtype, handle.max_entries)

    with pytest.raises(MapError, match="ENOENT"):
        array.get(16)
    with pytest.raises(MapError, match="E2BIG"):
        array.put(16, np.zeros(1, handle.value_dtype)[0])


@pytest.mark.kernels
def test_globals_are_live(selftest):
    testrun.run(selftest.programs["rt_count"], FRAME, 1009)
    assert int(selftest.globals.rt_packets) == 1009

    selftest.globals.rt_packets[...] = 5
    testrun.run(selftest.programs["rt_count"], FRAME, 2)
    assert int(selftest.globals["rt_packets"]) == 7


def test_constants_can_be_read_but_not_written(selftest):
    section = selftest.maps[".rodata"]
    constants = Variables(section.fd, selftest.loaded.btf, ".rodata", writable=False)

    assert int(constants.rt_constant) == 7
    assert constants.rt_prefix.tolist() == [1, 2, 3, 4]
    with pytest.raises(MapError, match="mmap"):
        Variables(section.fd, selftest.loaded.btf, ".rodata")


def test_an_unknown_global_is_named(selftest):
    with pytest.raises(AttributeError, match="no global rt_nowhere"):
        _ = selftest.globals.rt_nowhere
    assert "rt_packets" in selftest.globals


@pytest.mark.kernels
def test_a_map_inside_a_map_is_replaced(selftest):
    outer = selftest.maps["rt_outer"].fd
    inner = [maps.create_map(maps.TYPE_ARRAY, 4, 8, 1) for _ in range(2)]
    for number, fd in enumerate(inner):
        ArrayMap(fd, np.uint64, 1).put(0, 40 + number)

    assert selftest.ask("rt_read_outer", 0, 1) == 0xFFFFFFFF
    set_inner_map(outer, 1, inner[0])
    assert selftest.ask("rt_read_outer", 0, 1) == 40
    set_inner_map(outer, 1, inner[1])
    assert selftest.ask("rt_read_outer", 0, 1) == 41
    for fd in inner:
        syscall.close_quietly(fd)


def test_memory_of_a_burst_is_given_back(selftest):
    table = hash_of(selftest)
    selftest.ask("rt_fill_hash", 0, N)
    burst = table.drain()[0].__array_interface__["data"][0]
    for _ in range(20):
        selftest.ask("rt_fill_hash", 0, 11)
        keys, values = table.drain()
        expect_filled(keys, values, 0, 11)

    assert table._touched == 11
    assert burst


def test_programs_are_described_by_the_kernel(selftest):
    info = syscall.prog_info(selftest.programs["rt_count"])

    assert info.name == b"rt_count"
    assert info.recursion_misses == 0
    before = info.run_cnt
    stats = syscall.enable_run_time_stats()
    testrun.run(selftest.programs["rt_count"], FRAME, 3)
    syscall.close_quietly(stats)
    assert before == 0


def test_a_packet_is_run_as_often_as_asked_and_the_context_is_taken(selftest):
    context = testrun.sk_buff(mark=7, gso_size=1000, gso_segs=2, ifindex=1)

    ran = testrun.run(selftest.programs["rt_count"], FRAME, 17, context=context)

    assert ran.retval == 0xFFFFFFFF
    assert int(selftest.globals.rt_packets) == 17

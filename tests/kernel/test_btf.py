"""Types are read from BTF: layouts as the compiler made them, and malformed BTF is refused."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.errors import KernelError
from retina_otel.kernel.bpf.btf import Btf, BtfError
from retina_otel.kernel.bpf.libbpf import BpfObject
from retina_otel.loaders import objects


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf.from_object(objects.path("rt_selftest"))


def test_a_struct_keeps_its_padding_and_nested_types(btf):
    value = btf.dtype("rt_selftest_value")

    assert value.itemsize == 48
    assert {name: value.fields[name][1] for name in value.names} == {
        "packets": 0,
        "last": 8,
        "color": 12,
        "inner": 16,
        "sign": 44,
    }
    inner = value["inner"].subdtype
    assert inner is not None
    assert inner[1] == (2,)
    assert inner[0].itemsize == 14
    assert inner[0]["name"] == np.dtype("S8")
    assert inner[0]["bytes"] == np.dtype(("u1", (3,)))
    assert value["sign"] == np.dtype("i4")


def test_members_of_an_anonymous_union_stand_in_the_parent_and_overlap(btf):
    key = btf.dtype("rt_selftest_key")

    assert key.itemsize == 8
    assert key.fields["c"][1] == key.fields["c_bytes"][1] == 6


def test_a_packed_struct_has_no_padding(btf):
    assert btf.dtype("rt_selftest_odd_record").itemsize == 13


def test_a_ring_is_typed_by_the_global_that_bears_its_name(btf):
    assert btf.pointee("rt_ring__rt_ring") == btf.dtype("rt_selftest_record")
    assert btf.pointee("rt_ring__nothing") is None


def test_enumerators_are_read_with_their_values(btf):
    assert btf.enum("rt_selftest_color") == {1: "RT_RED", 2: "RT_GREEN"}


def test_variables_carry_section_and_offset(btf):
    data = btf.variables(".data")

    assert {name: one.offset for name, one in data.items()} == {
        "rt_generation": 0,
        "rt_negative": 4,
    }
    assert btf.variables()["rt_prefix"].dtype == np.dtype(("u1", (4,)))


def test_a_type_that_is_not_there_says_why_it_may_be_missing(btf):
    with pytest.raises(BtfError, match=r"no type rt_nowhere.*clang keeps only used types"):
        btf.dtype("rt_nowhere")


def test_the_kernels_enums_are_those_that_bpftool_prints():
    dump = subprocess.run(
        ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "raw"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    start = next(at for at, line in enumerate(dump) if "ENUM 'skb_drop_reason'" in line)
    expected = {}
    for line in dump[start + 1 :]:
        if not line.startswith("\t"):
            break
        name, value = line.split("'")[1], int(line.rsplit("=", 1)[1])
        expected[value] = name

    assert Btf.vmlinux().enum("skb_drop_reason") == expected


def test_the_kernel_is_asked_for_what_it_has():
    with Btf.vmlinux() as kernel:
        assert kernel.has("sk_buff")
        assert not kernel.has("rt_nowhere")
        assert kernel.parameters("netif_receive_skb") == 1
        assert kernel.parameters("rt_nowhere") == 0
        with pytest.raises(BtfError, match="no enum rt_nowhere"):
            kernel.enum("rt_nowhere")


def _blob() -> bytes:
    opened = BpfObject(objects.path("rt_selftest"))
    try:
        return opened.btf_bytes()
    finally:
        opened.close()


BLOB = _blob()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_btf_are_refused(data):
    with pytest.raises(KernelError):
        Btf(data)


@given(st.integers(0, len(BLOB) - 1), st.integers(0, 255))
def test_a_damaged_blob_is_read_or_refused_but_never_crashes(at, value):
    damaged = bytearray(BLOB)
    damaged[at] = value
    try:
        btf = Btf(bytes(damaged))
        btf.variables()
        btf.dtype("rt_selftest_value")
    except KernelError:
        pass


@given(st.integers(0, len(BLOB) - 1))
def test_a_cut_blob_is_refused(length):
    with pytest.raises(KernelError):
        Btf(BLOB[:length])

"""Names of drop reasons and of the functions that drop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.kernel.kallsyms import HIDDEN, KernelSymbols
from retina_otel.model.protocols import network_type_column, transport, transport_column
from retina_otel.receivers.drops.reasons import NO_DROPS, DropReasons

ENUM = {
    0: "SKB_NOT_DROPPED_YET",
    1: "SKB_CONSUMED",
    3: "SKB_DROP_REASON_NO_SOCKET",
    4: "SKB_DROP_REASON_SOCKET_CLOSE",
    9: "SKB_DROP_REASON_NETFILTER_DROP",
    10: "SKB_DROP_REASON_MAX",
    0xFFFF0000: "SKB_DROP_REASON_SUBSYS_MASK",
}


def test_names_are_the_kernels_in_lower_case() -> None:
    reasons = DropReasons(ENUM)
    codes, names = reasons.column(np.array([9, 3, 9], np.uint32))
    assert [names[code] for code in codes] == ["netfilter_drop", "no_socket", "netfilter_drop"]


def test_what_the_kernel_does_not_name_keeps_its_number() -> None:
    reasons = DropReasons(ENUM)
    assert reasons.name(2 << 16 | 5) == "subsystem_2_reason_5"
    assert reasons.name(77) == "reason_77"
    assert reasons.name(10) == "reason_10"


def test_what_is_left_out_is_found_by_name_in_either_spelling() -> None:
    known, unknown = DropReasons(ENUM).numbers(["SKB_CONSUMED", "netfilter_drop", "made_up"])
    assert (known, unknown) == ([1, 9], ["made_up"])


def test_an_older_kernel_may_lack_some_of_the_default_list() -> None:
    known, unknown = DropReasons(ENUM).numbers(NO_DROPS)
    assert known == [0, 1, 4]
    assert set(unknown) == set(NO_DROPS) - {"not_dropped_yet", "consumed", "socket_close"}


def test_a_reason_that_is_spelt_wrong_has_a_nearest_one() -> None:
    assert DropReasons(ENUM).nearest("netfilter_drpo") == "netfilter_drop"


SYMBOLS = b"""ffffffff81000000 T first
ffffffff81000100 t second
ffffffff81000180 d data_is_no_function
ffffffffc0000000 t in_module\t[some_module]
ffffffff81000200 W third
"""


def symbols(folder: Path, text: bytes) -> KernelSymbols:
    path = folder / "kallsyms"
    path.write_bytes(text)
    return KernelSymbols(path)


def test_an_address_is_in_the_function_that_starts_below_it(tmp_path: Path) -> None:
    found = symbols(tmp_path, SYMBOLS).names(
        [0xFFFFFFFF81000000, 0xFFFFFFFF810001F0, 0xFFFFFFFF81000201, 0xFFFFFFFFC0000010, 0x10]
    )
    assert found == ["first", "second", "third", "in_module", ""]


def test_hidden_addresses_are_told_as_such(tmp_path: Path) -> None:
    hidden = symbols(tmp_path, b"0000000000000000 T first\n0000000000000000 T second\n")
    assert hidden.names([0xFFFFFFFF81000000]) == [""]
    assert hidden.unavailable == HIDDEN


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    missing = KernelSymbols(tmp_path / "none")
    assert missing.names([1]) == [""]
    assert "No such file" in missing.unavailable


def test_a_line_across_two_blocks_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retina_otel.kernel.kallsyms._BLOCK_BYTES", 17)
    assert symbols(tmp_path, SYMBOLS).names([0xFFFFFFFF81000150]) == ["second"]


@given(st.binary(max_size=300))
def test_any_bytes_give_names_or_none(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert len(symbols(Path(folder), data).names([0xFFFFFFFF81000000, 5])) == 2


def test_protocols_have_their_keyword_or_their_number() -> None:
    assert [transport(number) for number in (6, 17, 1, 58, 132, 253)] == [
        "tcp",
        "udp",
        "icmp",
        "icmpv6",
        "sctp",
        "253",
    ]
    column = transport_column(np.array([0, 17], np.uint8), np.array([False, True]))
    assert column.codes.tolist() == [-1, 17]
    types = network_type_column(np.array([4, 0, 6], np.uint8))
    assert types.codes.tolist() == [0, -1, 1]

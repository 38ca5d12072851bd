"""HashIndex against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.pipeline.hash_index import MISSING, HashIndex

KEYS = st.integers(0, 2**64 - 1) | st.integers(0, 50) | st.integers(0, 50).map(lambda k: k << 43)


@given(st.lists(st.lists(KEYS, max_size=40), max_size=6), st.lists(KEYS, max_size=40))
def test_finds_what_a_dict_finds(insertions: list[list[int]], asked: list[int]) -> None:
    index = HashIndex()
    known: dict[int, int] = {}
    for keys in insertions:
        new = [key for key in dict.fromkeys(keys) if key not in known]
        numbers = range(len(known), len(known) + len(new))
        index.insert(np.array(new, np.uint64), np.array(numbers, np.int32))
        known.update(zip(new, numbers, strict=True))
    wanted = [*asked, *known]
    found = index.find(np.array(wanted, np.uint64))
    assert found.tolist() == [known.get(key, MISSING) for key in wanted]
    assert len(index) == len(known)


def test_an_index_grows_without_losing_a_key() -> None:
    keys = np.arange(5000, dtype=np.uint64) * np.uint64(1 << 40)
    index = HashIndex()
    for low in range(0, 5000, 7):
        part = keys[low : low + 7]
        index.insert(part, np.arange(low, low + len(part), dtype=np.int32))
    assert index.find(keys).tolist() == list(range(5000))
    assert (index.find(keys + np.uint64(1)) == MISSING).all()


@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=120), st.lists(KEYS, max_size=20))
def test_one_at_a_time_it_is_a_dict(changes: list[tuple[int, bool]], asked: list[int]) -> None:
    index = HashIndex()
    known: dict[int, int] = {}
    for number, (key, there) in enumerate(changes):
        if there and key not in known:
            index.put(key, number)
            known[key] = number
        elif not there and key in known:
            index.remove(key)
            del known[key]
        assert len(index) == len(known)
    wanted = [*asked, *(key for key, _ in changes)]
    expected = [known.get(key, MISSING) for key in wanted]
    assert index.find(np.array(wanted, np.uint64)).tolist() == expected
    assert [index.get(key) for key in wanted] == expected

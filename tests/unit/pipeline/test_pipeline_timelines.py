"""Whose an address was, against a model that asks every claim at every nanosecond."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Iterable
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import UNKNOWN_ROW
from retina_otel.pipeline.identity.claims import (
    ALWAYS,
    AMBIGUOUS,
    FOREVER,
    NOBODY,
    PRECEDENCE,
    Claim,
    EndpointKind,
    Validity,
    timeline,
)
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointTable
from retina_otel.pipeline.identity.networks import Mix, parse

SECOND = 1_000_000_000
POD = EndpointKind.POD
END = 12

TIMES = st.lists(st.integers(0, END - 1), min_size=4, max_size=4).map(sorted)


@st.composite
def validities(draw: st.DrawFn) -> Validity:
    possible_from, *certain, possible_until = draw(TIMES)
    # Nothing is certain where the end of that comes first.
    certain_from, certain_until = draw(st.permutations(certain))
    if draw(st.booleans()):
        possible_until = FOREVER
        certain_until = draw(st.sampled_from([certain_until, FOREVER]))
    told = Validity(possible_from, certain_from, certain_until, possible_until)
    return draw(st.sampled_from([told, told, told, ALWAYS]))


KINDS = st.sampled_from([POD, POD, POD, POD, EndpointKind.NODE, EndpointKind.SERVICE])
CLAIMS = st.lists(
    st.tuples(st.sampled_from("abcd"), KINDS, validities(), st.booleans()), max_size=5
).map(
    lambda found: [
        Claim(row, key, kind, valid, weak and valid.possible_until == FOREVER)
        for row, (key, kind, valid, weak) in enumerate(found, start=1)
    ]
)


def model(claims: Iterable[Claim], now: int) -> int:
    """As the contract says it, of one moment."""
    ever = [one for one in claims if one.valid.possible_from < one.valid.possible_until]
    possible = [one for one in ever if one.valid.possible_from <= now < one.valid.possible_until]
    strong = [one for one in possible if not one.weak]
    certain = []
    for one in strong:
        followed = one.kind is POD and any(
            other.kind is POD and one.valid.possible_from < other.valid.possible_from <= now
            for other in ever
        )
        if one.valid.certain_from <= now < one.valid.certain_until and not followed:
            certain.append(one)
    if not possible:
        return NOBODY
    if any(one.kind is EndpointKind.NODE for one in certain) and any(
        one.kind is POD and one.valid != ALWAYS for one in strong
    ):
        return AMBIGUOUS
    if not certain and any(now < one.valid.certain_from for one in possible):
        return AMBIGUOUS
    if not certain and strong:
        same = {one.key for one in strong}
        return max(one.row for one in strong) if len(same) == 1 else AMBIGUOUS
    judged = certain or possible
    best = max(PRECEDENCE[one.kind] for one in judged)
    first = [one for one in judged if PRECEDENCE[one.kind] == best]
    if first[0].kind is not EndpointKind.NODE and len({one.key for one in first}) > 1:
        return AMBIGUOUS
    return max(one.row for one in first)


@given(CLAIMS)
def test_a_timeline_says_of_every_nanosecond_what_its_claims_say(claims: list[Claim]) -> None:
    segments = timeline(claims)
    times = [from_ns for from_ns, _ in segments]
    assert times == sorted(set(times))
    rows = [NOBODY, *(row for _, row in segments)]
    assert all(one != following for one, following in pairwise(rows))
    said = [
        next((row for from_ns, row in reversed(segments) if from_ns <= now), NOBODY)
        for now in range(END + 1)
    ]
    assert said == [model(claims, now) for now in range(END + 1)]


def address(text: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    base = parse(text).base
    return (
        np.full(count, base >> 64, np.uint64),
        np.full(count, base & (2**64 - 1), np.uint64),
    )


def pod(name: str, valid: Validity, *addresses: str) -> Endpoint:
    return Endpoint(POD, name, {"k8s.pod.name": name}, addresses, valid=valid)


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1"])
@given(
    st.lists(validities(), max_size=6),
    st.lists(st.tuples(st.integers(0, END), st.integers(0, END)).map(sorted), max_size=20),
)
def test_a_span_has_an_owner_only_if_that_does_not_change_within(
    text: str, valid: list[Validity], spans: list[list[int]]
) -> None:
    table = EndpointTable()
    table.apply(pod(f"p{number}", one, text) for number, one in enumerate(valid))
    hi, lo = address(text, len(spans))
    first, last = (np.array([span[at] for span in spans], np.int64) for at in (0, 1))
    claims = [Claim(row, f"p{row}", POD, one) for row, one in enumerate(valid, start=1)]
    expected = []
    for since, until in spans:
        told = {model(claims, now) for now in range(since, until + 1)}
        (only,) = told if len(told) == 1 else (UNKNOWN_ROW,)
        expected.append(max(only, UNKNOWN_ROW))
    assert table.resolve_address(hi, lo, first, last).tolist() == expected


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("late", [0, 1, 5])
def test_of_two_hundred_owners_in_turn_none_gets_what_was_another_s(text: str, late: int) -> None:
    """Deletions and additions are told `late` owners late, in several orders."""
    order = random.Random(late)
    step = 10 * SECOND
    table = EndpointTable(keep_ns=10_000 * SECOND)
    tell: list[tuple[int, int, int]] = []
    for number in range(200):
        tell.append((number, 0, number))
        tell.append((number + 1 + order.randint(0, late), 1, number))
    for _, gone, number in sorted(tell, key=lambda one: (one[0], order.random())):
        since = (number + 1) * step
        until = since + step - SECOND
        if gone:
            valid = Validity(since, since + SECOND, until - SECOND, until)
            table.apply([pod(f"p{number}", valid, text)], [f"p{number}"])
        else:
            table.apply([pod(f"p{number}", Validity(since, since + SECOND), text)])
        table.advance(since)
        check(table, text, number, step)
    times = np.arange(step, 201 * step, SECOND // 4, dtype=np.int64)
    rows = table.resolve_address(*address(text, len(times)), times, times)
    for now, row in zip(times.tolist(), rows.tolist(), strict=True):
        number, into = divmod(now - step, step)
        # Every owner is known, so each has its time from when that is certain, and nobody the rest.
        name = f"p{number}" if SECOND <= into < step - SECOND else "unknown"
        assert table.endpoint(row).key == name


def check(table: EndpointTable, text: str, until: int, step: int) -> None:
    """A time at which an owner surely had it is that owner's, if those told already are all."""
    number = np.arange(until + 1)
    surely = (number + 1) * step + 2 * SECOND
    rows = table.resolve_address(*address(text, until + 1), surely, surely + SECOND)
    for place, row in enumerate(rows.tolist()):
        assert table.endpoint(row).key in {f"p{place}", "unknown"}


def test_events_of_three_owners_in_any_order_end_the_same() -> None:
    events = [
        (number, Validity(since, since + 2, since + 6, since + 8) if gone else Validity(since))
        for number, since in enumerate((10, 20, 30))
        for gone in (False, True)
    ]
    times = np.arange(0, 45, dtype=np.int64)
    hi, lo = address("10.0.0.1", len(times))
    for order in permutations(events):
        if any(order.index(events[2 * n]) > order.index(events[2 * n + 1]) for n in range(3)):
            continue  # No source adds what is gone.
        table = EndpointTable()
        for number, valid in order:
            gone = valid.possible_until < FOREVER
            key = f"p{number}"
            table.apply([pod(key, valid, "10.0.0.1")], [key] if gone else [])
        keys = [table.endpoint(row).key for row in table.resolve_address(hi, lo, times, times)]
        expected = [
            f"p{(now - 10) // 10}" if 12 <= now < 38 and 2 <= (now - 10) % 10 < 8 else "unknown"
            for now in times.tolist()
        ]
        assert keys == expected


def test_addresses_made_to_collide_in_the_hash_are_told_apart() -> None:
    mix = Mix()
    first = parse("fd00::1").base
    made = []
    for number in range(1, 4):
        hi = (0x20010DB8 << 32 | number) << 64
        made.append(hi | (mix.of_one(first) - mix.of_one(hi)) % 2**64)
    assert {mix.of_one(base) for base in made} == {mix.of_one(first)}
    texts = [str(ipaddress.IPv6Address(base)) for base in (first, *made)]
    table = EndpointTable()
    table.apply([pod(text, Validity(), text) for text in texts[:3]])
    rows = [int(table.resolve_address(*address(text, 1))[0]) for text in texts]
    assert [table.endpoint(row).key for row in rows] == [*texts[:3], "unknown"]


def test_what_a_pod_had_is_remembered_for_minutes_and_then_forgotten() -> None:
    table = EndpointTable(linger_ns=SECOND, keep_ns=60 * SECOND)
    table.apply([pod("old", Validity(0, 0, 5, 6), "10.0.0.1")], ["old"])
    now = np.array([3], np.int64)
    asked = *address("10.0.0.1", 1), now, now
    table.advance(100 * SECOND)
    table.advance(159 * SECOND)
    assert table.endpoint(table.resolve_address(*asked)[0]).key == "old"
    table.advance(160 * SECOND)
    assert table.resolve_address(*asked).tolist() == [UNKNOWN_ROW]


def test_while_a_writer_changes_owners_every_answer_was_right_at_some_epoch() -> None:
    """Address n belongs to pods n.0, n.1, ... in turn, all changed in one call: whatever is read
    meanwhile is a pod of that address, and owners never go back."""
    n_addresses, n_turns = 300, 40
    texts = [f"10.0.{number // 200}.{number % 200 + 1}" for number in range(n_addresses)]
    base = [parse(text).base for text in texts]
    hi, lo = np.zeros(n_addresses, np.uint64), np.array(base, np.uint64)
    table = EndpointTable()

    def pods(turn: int) -> list[Endpoint]:
        return [
            Endpoint(POD, f"{number}.{turn}", {}, (text,), valid=Validity(turn, turn))
            for number, text in enumerate(texts)
        ]

    table.update(pods(0))
    done = threading.Event()

    def write() -> None:
        for turn in range(1, n_turns):
            table.update(pods(turn))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    turns = np.zeros(n_addresses, int)
    while True:
        finished = done.is_set()
        rows = table.resolve_address(hi, lo).tolist()
        for number, row in enumerate(rows):
            whose, turn = table.endpoint(row).key.split(".")
            assert int(whose) == number
            assert int(turn) >= turns[number]
            turns[number] = int(turn)
        if finished:
            break
    writer.join()
    assert (turns == n_turns - 1).all()


def test_networks_have_what_nobody_has_at_the_time_but_not_what_is_ambiguous() -> None:
    table = EndpointTable()
    office = Endpoint(EndpointKind.CIDR, "office", {}, ("10.0.0.0/8",))
    both = pod("a", Validity(10, 10), "10.0.0.1"), pod("b", Validity(20, 30), "10.0.0.1")
    table.apply([office, *both])
    times = np.array([5, 15, 25, 35], np.int64)
    rows = table.resolve_address(*address("10.0.0.1", 4), times, times)
    assert [table.endpoint(row).key for row in rows] == ["office", "a", "unknown", "b"]


def test_two_pods_that_claim_an_address_at_all_times_are_neither_meant() -> None:
    table = EndpointTable()
    table.apply([pod("a", Validity(), "10.0.0.1"), pod("b", Validity(), "10.0.0.1")])
    assert table.resolve_address(*address("10.0.0.1", 1)).tolist() == [UNKNOWN_ROW]
    assert table.locate(*address("10.0.0.1", 1)).tolist() == [AMBIGUOUS]
    table.apply(removed=["b"])
    assert table.endpoint(table.resolve_address(*address("10.0.0.1", 1))[0]).key == "a"

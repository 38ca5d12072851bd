"""When a pod has its addresses: certain only where nobody else can have them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.kubernetes.inventory.inventory import Inventory
from retina_otel.kubernetes.objects import Kind, Pod
from retina_otel.pipeline.identity.endpoints import (
    FOREVER,
    Endpoint,
    EndpointKind,
    EndpointTable,
    Validity,
)
from retina_otel.pipeline.identity.networks import parse
from tests.unit.kubernetes.kubernetes_world import SECOND, T0, Told, pod, seconds

NEVER = (FOREVER - T0) / SECOND


class Heard:
    """One pod's story: what is heard of it, and when (seconds after T0)."""

    def __init__(self) -> None:
        self.inventory = Inventory()
        self.told = Told()

    def hear(self, at: int, state: Pod) -> list[float]:
        self.told.take(self.inventory.apply(Kind.POD, [state], [], T0 + at * SECOND))
        return self.times()

    def deleted(self, at: int, state: Pod) -> list[float]:
        self.told.take(self.inventory.apply(Kind.POD, [], [state], T0 + at * SECOND))
        return self.times()

    def missing(self, at: int) -> list[float]:
        self.told.take(self.inventory.apply(Kind.POD, [], [], T0 + at * SECOND, full=True))
        return self.times()

    def times(self) -> list[float]:
        """possible from, certain from, certain until, possible until."""
        endpoint = self.told.endpoints.get("uid-p") or self.told.last_words["uid-p"]
        valid = endpoint.valid
        return seconds(
            (valid.possible_from, valid.certain_from, valid.certain_until, valid.possible_until)
        )


def test_pod_that_was_there_before_us_is_certain_since_its_first_container() -> None:
    assert Heard().hear(100, pod("p", "10.0.0.7", started=3, running=5)) == [3, 5, NEVER, NEVER]


def test_pod_whose_containers_have_not_started_is_certain_since_it_was_heard_of() -> None:
    heard = Heard()
    assert heard.hear(4, pod("p", "10.0.0.7", started=3)) == [3, 4, NEVER, NEVER]
    assert heard.hear(9, pod("p", "10.0.0.7", started=3, running=8)) == [3, 4, NEVER, NEVER]


def test_a_container_that_starts_again_makes_nothing_later() -> None:
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    assert heard.hear(60, pod("p", "10.0.0.7", started=3, running=55)) == [3, 5, NEVER, NEVER]


def test_nothing_is_certain_from_the_request_to_delete_on() -> None:
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    leaving = pod("p", "10.0.0.7", started=3, running=5, deleted=20, grace=30)
    assert heard.hear(21, leaving) == [3, 5, 20, NEVER]
    assert heard.deleted(33, leaving) == [3, 5, 20, 33]


def test_pod_whose_containers_have_ended_may_have_its_address_until_that_is_heard() -> None:
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    ended = pod("p", "10.0.0.7", started=3, running=5, phase="Succeeded", ended=17)
    assert heard.hear(19, ended) == [3, 5, 17, 19]
    assert not heard.told.endpoints


def test_finished_pod_of_the_first_list_is_nobody() -> None:
    heard = Heard()
    done = pod("p", "10.0.0.7", started=3, running=5, phase="Succeeded", ended=17)
    heard.told.take(heard.inventory.apply(Kind.POD, [done], [], T0, full=True))
    assert not heard.told.endpoints
    assert len(heard.inventory) == 0


def test_pod_whose_address_is_heard_of_together_with_its_end_had_it() -> None:
    ended = pod("p", "10.0.0.7", started=3, running=5, phase="Succeeded", ended=17)
    heard = Heard()
    heard.told.take(heard.inventory.apply(Kind.POD, [pod("p", phase="Pending")], [], T0))
    assert heard.hear(19, ended) == [3, 5, 17, 19]
    heard = Heard()
    heard.told.take(heard.inventory.apply(Kind.POD, [], [], T0, full=True))
    assert heard.hear(19, ended) == [3, 5, 17, 19]
    deleted = pod("p", "10.0.0.7", started=3, running=5, deleted=9)
    heard = Heard()
    heard.told.take(heard.inventory.apply(Kind.POD, [pod("p", phase="Pending")], [], T0))
    assert heard.deleted(19, deleted) == [3, 5, 9, 19]


def test_pod_that_is_gone_without_a_word_was_never_certain() -> None:
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    assert heard.missing(90) == [3, 5, 5, 90]
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    assert heard.deleted(90, pod("p", "10.0.0.7", started=3, running=5)) == [3, 5, 5, 90]


def test_another_address_of_the_same_pod_is_certain_since_it_was_heard_of() -> None:
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    again = pod("p", "10.0.0.8", started=3, running=5)
    assert heard.hear(70, again) == [3, 70, NEVER, NEVER]


@given(
    st.lists(
        st.builds(
            lambda started, running, deleted, ended, phase: pod(
                "p",
                "10.0.0.7",
                started=started,
                running=running,
                deleted=deleted,
                ended=ended,
                phase=phase,
            ),
            *(st.integers(0, 50) for _ in range(4)),
            st.sampled_from(["Pending", "Running", "Failed"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_times_are_in_order_whatever_the_clocks_say(states: list[Pod], deleted: bool) -> None:
    inventory = Inventory()
    said: list[Validity] = []
    for at, state in enumerate(states):
        change = inventory.apply(Kind.POD, [state], [], T0 + at * SECOND)
        said += [one.valid for one in change.added]
    if deleted:
        change = inventory.apply(Kind.POD, [], [states[-1]], T0 + 60 * SECOND)
        said += [one.valid for one in change.added]
    for valid in said:
        assert valid.possible_from <= valid.certain_from
        assert max(valid.possible_from, valid.certain_until) <= valid.possible_until


def test_a_pod_shorter_than_a_second_is_never_given_what_came_before_it_was_certain() -> None:
    """Started and asked to go within one second of the API: its address may have been another's in
    the first half of that, of whom nobody has heard."""
    table = EndpointTable()
    valid = Validity(5 * SECOND, 6 * SECOND, 5 * SECOND, 9 * SECOND)
    table.apply([Endpoint(EndpointKind.POD, "short", {}, ("10.0.0.1",), valid=valid)], ["short"])
    times = np.array([5, 6, 8, 9], np.int64) * SECOND + SECOND // 2
    base = parse("10.0.0.1").base
    hi = np.zeros(len(times), np.uint64)
    rows = table.resolve_address(hi, hi + np.uint64(base), times, times)
    told = [table.endpoint(row).key for row in rows.tolist()]
    assert told == ["unknown", "short", "short", "unknown"]

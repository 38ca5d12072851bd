"""When a pod has its addresses: certain only where nobody else can have them."""

from __future__ import annotations

from dataclasses import replace

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
from tests.unit.kubernetes.kubernetes_world import (
    SECOND,
    T0,
    Told,
    node,
    pod,
    seconds,
    service,
)

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


def test_what_is_heard_of_a_finished_pod_later_gives_it_nothing() -> None:
    """The Job controller takes its finalizer away, its TTL deletes it, a list is read again: by
    then the address is another's, or nobody's."""
    done = pod("p", "10.0.0.7", started=3, running=5, phase="Succeeded", ended=17)
    heard = Heard()
    heard.hear(6, pod("p", "10.0.0.7", started=3, running=5))
    heard.hear(19, done)
    assert heard.hear(60, done) == [3, 5, 17, 19]
    heard.told.take(
        heard.inventory.apply(Kind.POD, [done], [], T0 + 80 * SECOND, full=True),
    )
    assert heard.times() == [3, 5, 17, 19]
    assert heard.deleted(99, done) == [3, 5, 17, 19]
    heard = Heard()
    heard.told.take(heard.inventory.apply(Kind.POD, [done], [], T0 + 50 * SECOND, full=True))
    assert not heard.inventory.apply(Kind.POD, [done], [], T0 + 60 * SECOND)
    assert not heard.inventory.apply(Kind.POD, [], [done], T0 + 99 * SECOND)


def test_finished_pods_are_remembered_for_as_long_as_their_objects_are_there() -> None:
    inventory = Inventory()
    done = [pod(f"p{i}", f"10.0.0.{i}", phase="Failed", started=3) for i in range(3)]
    inventory.apply(Kind.POD, done, [], T0 + 9 * SECOND, full=True)
    inventory.apply(Kind.POD, [], done[:1], T0 + 10 * SECOND)
    inventory.apply(Kind.POD, done[1:2], [], T0 + 11 * SECOND, full=True)
    assert inventory.finished == frozenset({"uid-p1"})


def test_a_finished_pod_that_runs_in_an_older_store_can_end_again() -> None:
    running = pod("p", "10.0.0.7", started=3, running=5)
    done = pod("p", "10.0.0.7", started=3, running=5, phase="Succeeded", ended=17)
    heard = Heard()
    heard.hear(6, running)
    heard.hear(19, done)
    assert heard.hear(60, running) == [3, 5, NEVER, NEVER]
    assert heard.hear(70, done) == [3, 5, 17, 70]
    assert not heard.told.endpoints


def test_a_finished_pods_address_is_nobodys_when_its_object_is_deleted_at_last() -> None:
    inventory, table = Inventory(), EndpointTable()

    def hear(at: int, upserts: list[Pod], deletes: list[Pod], *, full: bool = False) -> None:
        change = inventory.apply(Kind.POD, upserts, deletes, T0 + at * SECOND, full)
        table.apply(change.added, change.removed)
        table.advance(T0 + at * SECOND)

    done = pod("job", "10.0.0.7", started=3, running=5, phase="Succeeded", ended=17)
    hear(2, [], [], full=True)
    hear(6, [pod("job", "10.0.0.7", started=3, running=5)], [])
    hear(19, [done], [])
    hear(118, [], [done])
    times = np.array([T0 + at * SECOND for at in (10, 60, 117)], np.int64)
    hi = np.zeros(len(times), np.uint64)
    rows = table.resolve_address(hi, hi + np.uint64(parse("10.0.0.7").base), times, times)
    assert [table.endpoint(row).key for row in rows.tolist()] == ["uid-job", "unknown", "unknown"]


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


def test_a_service_is_not_credited_with_what_came_before_it_was_made() -> None:
    """`kubectl replace --force`: another service has the address at once."""
    inventory, table = Inventory(), EndpointTable()
    old = service("old", "10.96.0.7", created=3)
    new = service("new", "10.96.0.7", created=100)
    for upserts, deletes in (([old], []), ([], [old]), ([new], [])):
        change = inventory.apply(Kind.SERVICE, upserts, deletes, T0 + 100 * SECOND)
        table.apply(change.added, change.removed)
    times = np.array([T0 + at * SECOND // 2 for at in (180, 199, 201, 202)], np.int64)
    hi = np.zeros(len(times), np.uint64)
    rows = table.resolve_address(hi, hi + np.uint64(parse("10.96.0.7").base), times, times)
    told = [table.endpoint(row).attributes.get("k8s.service.name") for row in rows.tolist()]
    assert told == ["old", "old", None, "new"]


def test_an_address_that_a_node_and_a_pod_of_another_claim_is_neithers() -> None:
    """A machine is gone, its Node not yet, and its address is a pod's: clouds have one subnet for
    both. Where a pod has the address of its own node (Fargate) it is the node's."""
    inventory, table = Inventory(), EndpointTable()
    nodes = [node("gone", "10.0.0.7"), node("own", "10.0.0.9")]
    pods = [
        pod("p", "10.0.0.7", node="there", started=30, running=31),
        replace(pod("q", "10.0.0.9", node="own", started=30), node_addresses=("10.0.0.9",)),
    ]
    for kind, objects in ((Kind.NODE, nodes), (Kind.POD, pods)):
        change = inventory.apply(kind, objects, [], T0 + 50 * SECOND)
        table.apply(change.added, change.removed)

    def whose(address: str) -> list[str]:
        times = np.array([T0 + at * SECOND for at in (20, 40)], np.int64)
        hi = np.zeros(len(times), np.uint64)
        rows = table.resolve_address(hi, hi + np.uint64(parse(address).base), times, times)
        return [table.endpoint(row).key for row in rows.tolist()]

    assert whose("10.0.0.7") == ["node:gone", "unknown"]
    assert whose("10.0.0.9") == ["node:own", "node:own"]


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

"""Snapshots, changes, resuming and falling behind, over real gRPC on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from retina_otel.identity_service import client
from retina_otel.identity_service.client import IdentityStream
from retina_otel.identity_service.fallback import FallBack, Source
from retina_otel.identity_service.protocol import WATCH, Heartbeat, Hello, Keys, Subscription
from retina_otel.kubernetes.objects import Kind, Meta, Namespace
from tests.unit.identity_service.identity_parts import (
    KEYS,
    QUICK,
    Told,
    change,
    eventually,
    pod,
    reading,
    served,
    settings,
    store_of,
    system_namespace,
    without_containers,
)


def by_uid(objects: list[Any]) -> dict[str, Any]:
    return {one.meta.uid: one for one in objects}


def test_a_client_gets_all_there_is_then_what_changes() -> None:
    pods = [pod(number) for number in range(2_500)]
    with served(store_of(pods)) as service, reading(service.endpoint) as told:
        told.synced()
        assert told.pods() == by_uid([without_containers(one) for one in pods])
        assert told.lists() == [Kind.POD, Kind.NAMESPACE]
        assert sum(len(one.upserted) for one in told.changes) == 2_501
        ended = pod(0, phase="Failed")
        service.store.apply(change(Kind.POD, [ended, pod(5_000)], [pods[1]]))
        told.wait(lambda: len(told.after_lists()) == 1)
        last = told.changes[-1]
        assert by_uid(last.upserted) == by_uid(
            [without_containers(ended), without_containers(pod(5_000))]
        )
        assert by_uid(last.deleted) == by_uid([without_containers(pods[1])])
        assert (last.kind, last.full) == (Kind.POD, False)


def test_the_pods_of_its_own_node_come_once_and_with_their_containers() -> None:
    pods = [pod(number) for number in range(100)]
    expected = {
        one.meta.uid: one if one.node == "node-3" else without_containers(one) for one in pods
    }
    with served(store_of(pods)) as service, reading(service.endpoint, node="node-3") as told:
        told.synced()
        assert told.pods() == expected
        assert sum(len(one.upserted) for one in told.changes if one.kind is Kind.POD) == 100
        mine, other = pod(3, phase="Failed"), pod(4, phase="Failed")
        service.store.apply(change(Kind.POD, [mine, other]))
        told.wait(lambda: len(told.after_lists()) == 1)
        assert by_uid(told.changes[-1].upserted) == by_uid([mine, without_containers(other)])


def test_a_local_client_gets_no_pods_of_other_nodes() -> None:
    pods = [pod(number) for number in range(100)]
    store = store_of(pods)
    with served(store) as service, reading(service.endpoint, node="node-3", local=True) as told:
        told.synced()
        assert told.pods() == by_uid([one for one in pods if one.node == "node-3"])
        service.store.apply(change(Kind.POD, [pod(4, phase="Failed")]))
        service.store.apply(change(Kind.NAMESPACE, [Namespace(Meta("new", "uid-new", "2"))]))
        told.wait(lambda: len(told.after_lists()) == 1)
        assert told.after_lists()[0].kind is Kind.NAMESPACE


def test_labels_that_were_not_asked_for_stay_away() -> None:
    store = store_of([pod(1)])
    with served(store) as service, reading(service.endpoint, kinds={Kind.POD: Keys()}) as told:
        told.synced()
        (only,) = told.pods().values()
        assert only.meta.labels == {}
        assert {one.kind for one in told.changes} == {Kind.POD}


def test_a_client_that_was_away_gets_only_what_it_missed() -> None:
    pods = [pod(number) for number in range(50)]
    store = store_of(pods)
    told = Told()
    with served(store) as first:
        port = first.server.port
        stream = IdentityStream(settings(first.endpoint), told.on_change, told.on_state)
        stream.start()
        told.synced()
    told.wait(lambda: not told.states[-1].synced)
    store.apply(change(Kind.POD, [pod(99)], [pods[7]]))
    store.cut()
    with served(store, address=f"127.0.0.1:{port}") as second:
        told.wait(lambda: len(told.after_lists()) == 1)
        stream.stop()
        assert second.counters.value("streams_started_total", "resumed") == 1
        assert second.counters.value("streams_started_total", "snapshot") == 0
    assert not told.changes[-1].full
    assert told.pods() == by_uid(
        [without_containers(one) for one in [*pods, pod(99)] if one != pods[7]]
    )


def test_a_service_that_serves_is_not_away_until_its_stream_fails() -> None:
    told = Told()
    with served(store_of([pod(1)])) as service:
        stream = IdentityStream(settings(service.endpoint), told.on_change, told.on_state)
        stream.start()
        told.synced()
        assert stream.away_s is None
    told.wait(lambda: not told.states[-1].synced)
    assert stream.away_s is not None
    stream.stop()


def test_an_agent_does_not_leave_a_service_that_it_has_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client.random, "uniform", lambda least, most: most)
    told = Told()

    def in_its_place() -> Source:
        raise AssertionError("the service was left")

    with served(store_of([pod(1)])) as service:
        source = FallBack(
            settings(service.endpoint, phase_s=3.0),
            told.on_change,
            told.on_state,
            in_its_place=in_its_place,
            after_s=1.0,
        )
        source.start()
        told.synced()
        source.stop()
    assert told.pods().keys() == {pod(1).meta.uid}


def test_a_client_that_missed_more_than_is_kept_starts_over() -> None:
    store = store_of([pod(number) for number in range(5)], log_objects=10)
    told = Told()
    with served(store) as first:
        port = first.server.port
        stream = IdentityStream(settings(first.endpoint), told.on_change, told.on_state)
        stream.start()
        told.synced()
    told.wait(lambda: not told.states[-1].synced)
    for number in range(100, 120):
        store.apply(change(Kind.POD, [pod(number)]))
        store.cut()
    with served(store, address=f"127.0.0.1:{port}") as second:
        told.wait(lambda: len(told.lists()) == 4)
        stream.stop()
        assert second.counters.value("streams_started_total", "snapshot") == 1
    assert told.lists() == [Kind.POD, Kind.NAMESPACE] * 2
    assert len(told.pods()) == 25


def test_a_stream_that_ends_by_itself_is_resumed_without_a_word() -> None:
    limits = replace(QUICK, renew_s=0.1)
    with served(store_of([pod(1)]), limits=limits) as service:
        with reading(service.endpoint) as told:
            told.synced()
            resumed = "streams_started_total", "resumed"
            eventually(lambda: service.counters.value(*resumed) >= 2)
        assert service.counters.value("streams_started_total", "snapshot") == 1
        assert told.lists() == [Kind.POD, Kind.NAMESPACE]
        assert told.after_lists() == []
        assert [state.synced for state in told.states] == [True]


def test_another_cluster_behind_the_same_service_is_told_anew() -> None:
    store = store_of([pod(number) for number in range(5)])
    with served(store) as service, reading(service.endpoint) as told:
        told.synced()
        store.apply(change(Kind.NAMESPACE, [system_namespace("cluster-2")], full=True))
        store.apply(change(Kind.POD, [pod(77)], full=True))
        told.wait(lambda: len(told.lists()) == 4)
        assert told.pods() == by_uid([without_containers(pod(77))])
        assert told.objects[Kind.NAMESPACE] == by_uid([system_namespace("cluster-2")])


def test_the_state_of_the_services_own_watches_is_told_at_once() -> None:
    limits = replace(QUICK, heartbeat_s=60.0)
    with (
        served(store_of([pod(1)]), limits=limits) as service,
        reading(service.endpoint) as told,
    ):
        told.synced()
        service.state.append(Heartbeat(False, 5, "the API server is away"))
        service.server.wake()
        told.wait(lambda: len(told.states) == 2)
        last = told.states[-1]
        assert (last.synced, last.since_ns, last.reason) == (False, 5, "the API server is away")


def test_a_service_that_is_silent_is_left() -> None:
    released = threading.Event()

    def greet(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield Hello("cluster-1", "epoch-1", False, 0.1).serialize(0)
        released.wait(20)

    with only_watch(greet) as endpoint, reading(endpoint) as told:
        told.wait(lambda: bool(told.states))
        assert told.states[0].reason == "the identity service was silent for 0.3 s"
        released.set()


@contextmanager
def only_watch(behaviour: Any) -> Iterator[str]:
    """A service of another make."""

    class Methods(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_stream_rpc_method_handler(behaviour)

    server = grpc.server(ThreadPoolExecutor(4), (Methods(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_client_that_reads_nothing_slows_nobody_and_is_cut_off() -> None:
    pods = [pod(number) for number in range(30_000)]
    limits = replace(QUICK, stalled_s=1.0)
    with served(store_of(pods), limits=limits) as service, stalled(service.endpoint):
        tolds = [Told() for _ in range(5)]
        streams = [
            IdentityStream(settings(service.endpoint), told.on_change, told.on_state)
            for told in tolds
        ]
        for stream in streams:
            stream.start()
        for told in tolds:
            told.synced()
        service.store.apply(change(Kind.POD, [], pods[:10_000]))
        for told in tolds:
            told.wait(lambda told=told: len(told.pods()) == 20_000)
        for stream in streams:
            stream.stop()
        eventually(lambda: service.server.streams == 0)
        assert service.counters.value("streams_ended_total", "stalled") == 1
        assert service.counters.value("streams_ended_total", "gone") == 5


@contextmanager
def stalled(endpoint: str) -> Iterator[None]:
    """A client that asks for everything and reads none of it."""
    # Without these gRPC lets the window grow to megabytes.
    options = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    subscription = Subscription({kind.value: keys for kind, keys in KEYS.items()})
    with grpc.insecure_channel(endpoint, options) as channel:
        response = channel.unary_stream(WATCH)(subscription.serialize())
        next(response)
        yield
        response.cancel()

"""A store of pods, a server on loopback, and clients that write down what they are told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from retina_otel.identity_service.admission import Admission, Credentials
from retina_otel.identity_service.authentication import Peer
from retina_otel.identity_service.client import IdentityStream, StreamSettings
from retina_otel.identity_service.counters import Counters
from retina_otel.identity_service.protocol import Heartbeat, Keys
from retina_otel.identity_service.server import IdentityServer, Limits
from retina_otel.identity_service.store import Store
from retina_otel.kubernetes.api.watch import Change, WatchState
from retina_otel.kubernetes.objects import Kind, Meta, Namespace, Object, OwnerRef, Pod

LOGGER = logging.getLogger("retina_otel.test.identity")
KEYS: Mapping[Kind, Keys] = {Kind.POD: Keys(("app",)), Kind.NAMESPACE: Keys()}
QUICK = Limits(batch_s=0.02, heartbeat_s=5.0)
SECOND = 10**9


def pod(number: int, *, node: str = "", phase: str = "Running") -> Pod:
    """The `number`-th of many pods; six have one owner."""
    deployment = number // 6
    owner = OwnerRef("apps/v1", "ReplicaSet", f"web-{deployment}", f"owner-{deployment}")
    meta = Meta(
        f"web-{number}",
        f"uid-{number}",
        str(1_000 + number),
        f"ns-{deployment % 5}",
        created_ns=(1_700_000_000 + number) * SECOND,
        owner=owner,
        labels={"app": f"web-{deployment}"} if number % 2 else {},
    )
    return Pod(
        meta,
        node or f"node-{number % 10}",
        False,
        phase,
        (f"10.0.{number >> 8}.{number & 255}", f"fd00::{number:x}"),
        (f"192.168.0.{number % 10}",),
        started_ns=(1_700_000_001 + number) * SECOND,
        containers=(f"container-{number}",),
    )


def without_containers(one: Pod) -> Pod:
    return replace(one, containers=())


def system_namespace(uid: str = "cluster-1") -> Namespace:
    return Namespace(Meta("kube-system", uid, "1"))


def change(
    kind: Kind, upserted: list[Any], deleted: list[Any] | None = None, *, full: bool = False
) -> Change:
    return Change(kind, upserted, deleted or [], full, 0)


def store_of(pods: list[Pod], **options: Any) -> Store:
    store = Store(**options)
    store.apply(change(Kind.NAMESPACE, [system_namespace()], full=True))
    store.apply(change(Kind.POD, pods, full=True))
    store.cut()
    return store


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Returns once it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def anybody(credentials: Credentials, anew: bool) -> Peer:
    return Peer("anybody", float("inf"))


@dataclass
class Served:
    server: IdentityServer
    store: Store
    counters: Counters
    state: list[Heartbeat]

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@contextmanager
def served(
    store: Store,
    *,
    identify: Callable[[Credentials, bool], Peer] = anybody,
    limits: Limits = QUICK,
    unsynced: frozenset[str] = frozenset(),
    credentials: grpc.ServerCredentials | None = None,
    address: str = "127.0.0.1:0",
) -> Iterator[Served]:
    counters = Counters()
    state = [Heartbeat(True, 1)]
    server = IdentityServer(
        store=store,
        kinds={kind.value: keys for kind, keys in KEYS.items()},
        admission=Admission(identify, counters, LOGGER),
        heartbeat=lambda: state[-1],
        unsynced=lambda: unsynced,
        counters=counters,
        logger=LOGGER,
        limits=limits,
    )
    server.start(address, credentials)
    try:
        yield Served(server, store, counters, state)
    finally:
        server.stop()


@dataclass
class Told:
    """What a client was told, as a set of objects and as a list of changes. Any thread."""

    objects: dict[Kind, dict[str, Object]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    states: list[WatchState] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def on_change(self, one: Change) -> None:
        assert isinstance(one.kind, Kind)
        with self._news:
            self.changes.append(one)
            known = self.objects.setdefault(one.kind, {})
            for each in one.upserted:
                known[each.meta.uid] = each
            if one.full:
                uids = {each.meta.uid for each in one.upserted}
                for uid in known.keys() - (uids if one.listed is None else one.listed):
                    del known[uid]
            for each in one.deleted:
                known.pop(each.meta.uid, None)
            self._news.notify_all()

    def on_state(self, state: WatchState) -> None:
        with self._news:
            self.states.append(state)
            self._news.notify_all()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        with self._news:
            assert self._news.wait_for(condition, timeout_s), (self.states, len(self.changes))

    def synced(self) -> None:
        self.wait(lambda: bool(self.states) and self.states[-1].synced)

    def lists(self) -> list[Kind]:
        """Of which a whole list was told, in that order."""
        return [one.kind for one in self.changes if one.full]

    def after_lists(self) -> list[Change]:
        """What came after the last whole list."""
        begin = max((at for at, one in enumerate(self.changes, 1) if one.full), default=0)
        return self.changes[begin:]

    def pods(self) -> dict[str, Object]:
        return self.objects.get(Kind.POD, {})


def settings(endpoint: str, **options: Any) -> StreamSettings:
    given = {"kinds": KEYS, "insecure": True, "phase_s": 0.0, "retry_first_s": 0.01} | options
    return StreamSettings(endpoint, **given)


@contextmanager
def reading(endpoint: str, **options: Any) -> Iterator[Told]:
    told = Told()
    stream = IdentityStream(settings(endpoint, **options), told.on_change, told.on_state)
    stream.start()
    try:
        yield told
    finally:
        stream.stop()

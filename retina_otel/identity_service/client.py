"""The agent's end: what the service sends, as changes like those of the agent's own watches.

One thread reads one stream, resumes it where it was after each break, and reads token and
certificates anew for each connection. Each frame is told as it comes, so that no snapshot is ever
in memory; one that breaks off does not count as had, and is told again from its beginning.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from retina_otel.errors import ConfigError, RetinaError
from retina_otel.identity_service.codec import decode_block
from retina_otel.identity_service.protocol import (
    CHANGES,
    FULL,
    HEARTBEAT,
    HELLO,
    LAST,
    MOST_FRAME_BYTES,
    PROBE,
    WATCH,
    Frame,
    Heartbeat,
    Hello,
    Keys,
    ProtocolError,
    Subscription,
)
from retina_otel.identity_service.tls import channel_credentials
from retina_otel.kubernetes.api.watch import Change, WatchState
from retina_otel.kubernetes.objects import Kind, Object

_LARGEST_TOKEN = 64 << 10


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Where the service is, and what this agent wants of it."""

    endpoint: str
    """ "host:port" """
    kinds: Mapping[Kind, Keys]
    node: str = ""
    local: bool = False
    """Of pods only those of `node`, of nodes only that."""
    token_file: str = ""
    ca_file: str = ""
    """Empty: the system's CAs."""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    """The name that the server's certificate must carry, when it is not the endpoint's host."""
    insecure: bool = False
    """No TLS: for loopback only."""
    phase_s: float = 2.0
    """The first connection comes after a random part of this: agents start together."""
    retry_first_s: float = 0.5
    retry_most_s: float = 30.0
    connect_s: float = 15.0

    def __post_init__(self) -> None:
        host = self.endpoint.rpartition(":")[0]
        if self.insecure and not _is_loopback(host) and not self.endpoint.startswith("unix:"):
            raise ConfigError(
                f"{self.endpoint} is not on this machine: nothing goes there unencrypted",
                "Use TLS, and name the CA of the identity service's certificate",
            )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")


class IdentityStream:
    """Like a `Watcher`, for several kinds at once."""

    def __init__(
        self,
        settings: StreamSettings,
        on_change: Callable[[Change], None],
        on_state: Callable[[WatchState], None],
        *,
        on_cluster: Callable[[str], None] = lambda uid: None,
    ) -> None:
        """Callbacks come from the thread. Whole lists are told in parts, `Change.listed` last;
        `on_cluster` is told the cluster's uid, at each begin."""
        self._settings = settings
        self._on_change = on_change
        self._on_state = on_state
        self._on_cluster = on_cluster
        self._by_name = {kind.value: kind for kind in settings.kinds}
        self._position = _Position()
        self._state: WatchState | None = None
        self._failures = 0
        self._phase_s = random.uniform(0.0, settings.phase_s)
        self._away_since: float | None = time.monotonic() + self._phase_s
        self._stop = threading.Event()
        self._call: grpc.Call | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="identity-stream", daemon=True)

    @property
    def away_s(self) -> float | None:
        """Since it was first asked, or last failed; 0.0 before it was asked; None from the first
        heartbeat until a stream fails. Any thread."""
        since = self._away_since
        return None if since is None else max(0.0, time.monotonic() - since)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No callback comes after it has returned."""
        with self._lock:
            self._stop.set()
            if self._call is not None:
                self._call.cancel()
        self._thread.join()

    # ---------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        self._stop.wait(self._phase_s)
        while not self._stop.is_set():
            try:
                wait_s = self._once()
            except RetinaError as error:
                wait_s = self._failed(str(error))
            self._stop.wait(wait_s)

    def _once(self) -> float:
        """One stream to its end. Returns how long to wait before the next."""
        with open_channel(self._settings) as channel:
            watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(WATCH)
            call = watch(
                self._subscription().serialize(),
                metadata=authorization(self._settings),
                wait_for_ready=False,
            )
            with self._lock:
                if self._stop.is_set():
                    call.cancel()
                    return 0.0
                self._call = call
            watchdog = _Watchdog(call, self._settings.connect_s)
            try:
                for data in call:
                    watchdog.pet()
                    self._take(Frame.parse(data), watchdog)
                    if self._stop.is_set():
                        return 0.0
            except grpc.RpcError as error:
                if self._stop.is_set():
                    return 0.0
                return self._failed(watchdog.reason or _told(error, self._settings.endpoint))
            finally:
                watchdog.stop()
                call.cancel()
                with self._lock:
                    self._call = None
        # The service ends each stream after a while, to see our token of then.
        return random.uniform(0.0, 0.5)

    def _failed(self, reason: str) -> float:
        self._failures += 1
        if self._away_since is None:
            self._away_since = time.monotonic()
        self._say(WatchState(False, time.time_ns(), reason))
        settings = self._settings
        bound = settings.retry_first_s * (1 << min(self._failures, 16))
        return min(bound, settings.retry_most_s) * random.uniform(0.5, 1.0)

    def _say(self, state: WatchState) -> None:
        before = self._state
        if before is None or (before.synced, before.reason) != (state.synced, state.reason):
            self._state = state
            self._on_state(state)

    # ------------------------------------------------------------------------------------ frames

    def _subscription(self) -> Subscription:
        settings, position = self._settings, self._position
        return Subscription(
            kinds={kind.value: keys for kind, keys in settings.kinds.items()},
            node=settings.node,
            local=settings.local,
            cluster=position.cluster,
            epoch=position.epoch,
            sequence=position.sequence,
            revisions=position.revisions,
        )

    def _take(self, frame: Frame, watchdog: _Watchdog) -> None:
        if frame.type == HELLO:
            hello = Hello.parse(frame.payload)
            watchdog.allow(3 * min(max(hello.heartbeat_s, 0.1), 300.0))
            self._position.begin(hello)
            if hello.cluster:
                self._on_cluster(hello.cluster)
        elif frame.type == HEARTBEAT:
            heartbeat = Heartbeat.parse(frame.payload)
            self._position.at(frame.sequence)
            self._failures = 0
            self._away_since = None
            self._say(WatchState(heartbeat.synced, heartbeat.since_ns, heartbeat.reason))
        elif frame.type == CHANGES:
            self._take_changes(frame)

    def _take_changes(self, frame: Frame) -> None:
        position = self._position
        told: dict[Kind, tuple[list[Object], list[Object]]] = {}
        for one in frame.parts():
            name, _, node = one.topic.partition("@")
            kind = self._by_name.get(name)
            if kind is None:
                continue
            keys = self._settings.kinds[kind]
            objects = decode_block(one.block, keys.labels, keys.annotations)
            if kind is Kind.POD and self._settings.node and not node:
                # They come by themselves, with all that is known of them.
                own = self._settings.node
                objects = [pod for pod in objects if getattr(pod, "node", "") != own]
            position.see(name, objects)
            told.setdefault(kind, ([], []))[one.deleted].extend(objects)
        now_ns = time.time_ns()
        for kind, (upserted, deleted) in told.items():
            self._on_change(Change(kind, upserted, deleted, False, now_ns))
        if frame.flags & FULL:
            for kind, (upserted, _) in told.items():
                position.listed[kind].update(one.meta.uid for one in upserted)
        if not frame.flags & LAST:
            return
        if frame.flags & FULL:
            for kind in self._by_name.values():
                listed = frozenset(position.listed.pop(kind, ()))
                self._on_change(Change(kind, [], [], True, now_ns, listed))
        position.at(frame.sequence)


@dataclass(slots=True)
class _Position:
    """What has been had in whole."""

    cluster: str = ""
    epoch: str = ""
    sequence: int = 0
    revisions: dict[str, int] = field(default_factory=dict)
    listed: defaultdict[Kind, set[str]] = field(default_factory=lambda: defaultdict(set))
    """UIDs of the snapshot that is coming in."""
    whole: bool = False
    next_epoch: str = ""

    def begin(self, hello: Hello) -> None:
        self.listed.clear()
        if hello.resumed:
            if (hello.cluster, hello.epoch) != (self.cluster, self.epoch) or not self.epoch:
                raise ProtocolError("the identity service resumes what was never begun")
            self.whole = True
            return
        if hello.cluster != self.cluster:
            self.revisions = {}
        self.cluster, self.epoch, self.sequence = hello.cluster, "", 0
        self.whole = False
        self.next_epoch = hello.epoch

    def at(self, sequence: int) -> None:
        """Everything up to `sequence` has been had."""
        if not self.whole:
            self.epoch, self.whole = self.next_epoch, True
        self.sequence = sequence

    def see(self, name: str, objects: list[Object]) -> None:
        versions = (one.meta.resource_version for one in objects)
        highest = max((int(version) for version in versions if version.isdecimal()), default=0)
        if highest > self.revisions.get(name, 0):
            self.revisions[name] = highest


class _Watchdog:
    """Cancels a call that is silent for too long."""

    def __init__(self, call: grpc.Call, allowed_s: float) -> None:
        self.reason = ""
        self._call = call
        self._allowed_s = allowed_s
        self._heard = time.monotonic()
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="identity-watchdog", daemon=True)
        self._thread.start()

    def allow(self, allowed_s: float) -> None:
        with self._news:
            self._allowed_s = allowed_s
            self._news.notify()

    def pet(self) -> None:
        self._heard = time.monotonic()

    def stop(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._news:
            while not self._ended:
                left = self._heard + self._allowed_s - time.monotonic()
                if left <= 0:
                    self.reason = f"the identity service was silent for {self._allowed_s:g} s"
                    self._call.cancel()
                    return
                self._news.wait(left)


def probe(settings: StreamSettings, timeout_s: float = 5.0) -> str:
    """Empty if the service would answer this agent, else why not."""
    try:
        with open_channel(settings) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PROBE)
            ask(b"", metadata=authorization(settings), timeout=timeout_s)
    except grpc.RpcError as error:
        return _told(error, settings.endpoint)
    except RetinaError as error:
        return str(error)
    return ""


def open_channel(settings: StreamSettings) -> grpc.Channel:
    """A channel with certificates as they are now. Raises ConfigError."""
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", MOST_FRAME_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    if settings.insecure:
        return grpc.insecure_channel(settings.endpoint, options)
    if settings.server_name:
        options.append(("grpc.ssl_target_name_override", settings.server_name))
    credentials = channel_credentials(settings.ca_file, settings.cert_file, settings.key_file)
    return grpc.secure_channel(settings.endpoint, credentials, options)


def authorization(settings: StreamSettings) -> tuple[tuple[str, str], ...]:
    """The token as it is now, as metadata. Raises ConfigError."""
    if not settings.token_file:
        return ()
    try:
        with Path(settings.token_file).open("rb") as file:
            token = file.read(_LARGEST_TOKEN).decode("ascii").strip()
        if not token.isprintable():
            raise ValueError
    except OSError as error:
        raise ConfigError(
            f"{settings.token_file} can't be read: {error.strerror}",
            "Project a ServiceAccount token for the identity service's audience there",
        ) from error
    except ValueError:
        raise ConfigError(f"{settings.token_file} holds no token") from None
    return (("authorization", f"Bearer {token}"),)


def _told(error: grpc.RpcError, endpoint: str) -> str:
    code, details = error.code(), error.details()
    return f"identity service at {endpoint}: {code.name}: {details}"

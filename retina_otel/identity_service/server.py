"""The gRPC server: lets agents in, and sends each what it has not had.

One event loop serves all: a stream is a coroutine that waits for its own connection only, holds one
frame, and is ended when its agent takes nothing for too long. So a slow agent slows nobody, and
memory does not grow with what agents leave unread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from retina_otel.errors import ConfigError
from retina_otel.identity_service.admission import Admission, Context
from retina_otel.identity_service.authentication import Peer
from retina_otel.identity_service.counters import Counters
from retina_otel.identity_service.protocol import (
    MOST_REQUEST_BYTES,
    PROBE,
    WATCH,
    Heartbeat,
    Hello,
    Keys,
    ProtocolError,
    Subscription,
)
from retina_otel.identity_service.reader import Reader, topics_of
from retina_otel.identity_service.store import Snapshot, Store

_CATCH_UP_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, but for `streams`."""

    streams: int = 2_000
    batch_s: float = 0.5
    """Changes are gathered for this long: what a change costs does not depend on how many come."""
    heartbeat_s: float = 15.0
    stalled_s: float = 60.0
    """An agent that takes not one frame for so long is cut off."""
    review_s: float = 300.0
    """How often the token of an open stream is reviewed again."""
    renew_s: float = 1_800.0
    """A stream ends after about so long; the agent resumes it with its token of then."""


class IdentityServer:
    """`start` and `stop` once each."""

    def __init__(
        self,
        *,
        store: Store,
        kinds: Mapping[str, Keys],
        admission: Admission,
        heartbeat: Callable[[], Heartbeat],
        unsynced: Callable[[], frozenset[str]],
        counters: Counters,
        logger: logging.Logger,
        limits: Limits | None = None,
    ) -> None:
        """`kinds`: what is watched, with the keys that objects have. `heartbeat` and `unsynced`
        (kinds without a first list) are asked on the server's thread."""
        self._store = store
        self._kinds = kinds
        self._admission = admission
        self._heartbeat = heartbeat
        self._unsynced = unsynced
        self._counters = counters
        self._logger = logger
        self._limits = limits or Limits()
        self._streams = 0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._begun = threading.Event()
        self._failure: Exception | None = None
        self._end: asyncio.Event
        self._news: asyncio.Event
        self.port = 0
        self.ticked = time.monotonic()
        """When the event loop was last seen alive."""

    @property
    def streams(self) -> int:
        return self._streams

    def start(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        """Listens at "host:port" or "unix:path"; `credentials` of None: without TLS. Raises
        ConfigError."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(address, credentials)),
            name="identity-server",
            daemon=True,
        )
        self._thread.start()
        self._begun.wait()
        if self._failure is not None:
            self._thread.join()
            raise ConfigError(
                f"{address} can't be listened on",
                "Stop what listens there (`ss -ltnp` names it), or set another address: listen",
            ) from self._failure

    def stop(self) -> None:
        """Agents are told to go elsewhere."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
        self._admission.close()

    def wake(self) -> None:
        """The state of the watches has changed: tell agents now. Any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    # ---------------------------------------------------------------------------- the event loop

    async def _run(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        self._end, self._news = asyncio.Event(), asyncio.Event()
        server = grpc.aio.server(
            handlers=(_Methods(self._watch, self._probe),),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
                ("grpc.max_concurrent_streams", 4),  # of one connection
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
            # Those that wait to be let in come on top.
            maximum_concurrent_rpcs=self._limits.streams + 100,
        )
        try:
            if credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, credentials)
            await server.start()
        except RuntimeError as error:
            self._failure = error
            return
        finally:
            self._loop = asyncio.get_running_loop()
            self._begun.set()
        cutting = asyncio.create_task(self._cut())
        await self._end.wait()
        self._stopping = True
        self._tell()
        cutting.cancel()
        await server.stop(2.0)

    async def _cut(self) -> None:
        while True:
            await asyncio.sleep(self._limits.batch_s)
            self.ticked = time.monotonic()
            batch = self._store.cut()
            if batch is None:
                continue
            self._counters.add("batches_total")
            self._counters.add("changed_objects_total", len(batch))
            if self._streams:
                await asyncio.to_thread(batch.parts, self._kinds)
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # ------------------------------------------------------------------------------------ methods

    async def _probe(self, request: bytes, context: Context) -> bytes:
        await self._admission.admit(context)
        await self._check_synced(self._kinds, context)
        return b""

    async def _watch(self, request: bytes, context: Context) -> None:
        peer = await self._admission.admit(context)
        try:
            subscription = Subscription.parse(request)
        except ProtocolError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT
            await self._admission.refuse(context, code, "malformed", str(error))
        if missing := self._missing(subscription):
            code = grpc.StatusCode.FAILED_PRECONDITION
            await self._admission.refuse(context, code, "not_watched", missing)
        await self._check_synced(subscription.kinds, context)
        if self._streams >= self._limits.streams:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            text = f"{self._streams} agents read already: raise the limit of streams"
            await self._admission.refuse(context, code, "too_many_streams", text)
        self._streams += 1
        reason = "gone"
        try:
            reason = await self._serve(subscription, peer, context)
        finally:
            self._streams -= 1
            self._counters.add("streams_ended_total", label=reason)
        if reason == "stopping":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is stopping")
        if reason == "stalled":
            await context.abort(grpc.StatusCode.ABORTED, "too slow: nothing was taken")

    async def _serve(self, subscription: Subscription, peer: Peer, context: Context) -> str:
        """Sends until the stream ends; returns why it does."""
        limits = self._limits
        await self._catch_up(subscription)
        reader = Reader(self._store, topics_of(subscription))
        resumed = reader.resume(subscription)
        self._counters.add("streams_started_total", label="resumed" if resumed else "snapshot")
        begun = time.monotonic()
        renew_at = begun + limits.renew_s * random.uniform(0.8, 1.2)
        review_at = begun + limits.review_s * random.uniform(0.8, 1.2)
        told: Heartbeat | None = None
        snapshot = None if resumed else reader.start_over()
        try:
            await self._send_start(reader, snapshot, context)
            while not self._stopping:
                news = self._news
                if reader.behind:
                    self._counters.add("resyncs_total")
                    await self._send_start(reader, reader.start_over(), context)
                while (batch := reader.next()) is not None:
                    for frame in reader.batch_frames(batch):
                        await self._send(frame, "changes", context)
                now = time.monotonic()
                if now >= renew_at or time.time() >= peer.until:
                    return "renewed"
                if now >= review_at:
                    await self._admission.check_again(context)
                    review_at = now + limits.review_s * random.uniform(0.8, 1.2)
                state = self._heartbeat()
                if state == told:
                    left = min(renew_at, review_at) - now, peer.until - time.time()
                    if not await self._quiet(news, max(min(left), 0.0)):
                        continue
                told = state
                await self._send(state.serialize(reader.sequence), "heartbeat", context)
        except TimeoutError:
            return "stalled"
        return "stopping"

    async def _quiet(self, news: asyncio.Event, at_most_s: float) -> bool:
        """Waits for news; whether there were none for a heartbeat's time."""
        heartbeat_s = self._limits.heartbeat_s
        try:
            async with asyncio.timeout(min(heartbeat_s, at_most_s)):
                await news.wait()
        except TimeoutError:
            return heartbeat_s <= at_most_s
        return False

    async def _send_start(
        self, reader: Reader, snapshot: Snapshot | None, context: Context
    ) -> None:
        hello = Hello(reader.cluster, reader.epoch, snapshot is None, self._limits.heartbeat_s)
        await self._send(hello.serialize(reader.sequence), "hello", context)
        if snapshot is not None:
            await asyncio.to_thread(snapshot.parts, reader.topics)
            for frame in reader.snapshot_frames(snapshot):
                await self._send(frame, "snapshot", context)

    async def _send(self, frame: bytes, type_: str, context: Context) -> None:
        """Raises TimeoutError if the agent takes nothing."""
        async with asyncio.timeout(self._limits.stalled_s):
            await context.write(frame)
        self._counters.add("frames_sent_total", label=type_)
        self._counters.add("sent_bytes_total", len(frame), type_)

    async def _catch_up(self, subscription: Subscription) -> None:
        """Waits, but not for ever, while the client knows more than we do: another replica may be
        ahead of us, but a cluster that was restored from a backup stays behind."""
        cluster, _, _ = self._store.position
        if subscription.cluster != cluster:
            return
        until = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < until and any(
            self._store.revision(kind) < revision
            for kind, revision in subscription.revisions.items()
        ):
            await asyncio.sleep(0.1)

    async def _check_synced(self, kinds: Mapping[str, Keys], context: Context) -> None:
        if unsynced := sorted(self._unsynced() & set(kinds)):
            text = f"the service has no first list yet of {', '.join(unsynced)}"
            code = grpc.StatusCode.UNAVAILABLE
            await self._admission.refuse(context, code, "not_synced", text)

    def _missing(self, subscription: Subscription) -> str:
        for kind, keys in subscription.kinds.items():
            has = self._kinds.get(kind)
            if has is None:
                return f"the service does not watch {kind}"
            for what, wanted, known in (
                ("label", keys.labels, has.labels),
                ("annotation", keys.annotations, has.annotations),
            ):
                if lacking := sorted(set(wanted) - set(known)):
                    return f"the service does not read the {what} {lacking[0]} of {kind}"
        return ""


class _Methods(grpc.GenericRpcHandler):
    """Messages stay bytes."""

    def __init__(self, watch: Any, probe: Any) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            WATCH: grpc.unary_stream_rpc_method_handler(watch),
            PROBE: grpc.unary_unary_rpc_method_handler(probe),
        }

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._methods.get(details.method)

"""Watches one kind of objects and tells of its changes.

Invariant: after `on_change` the set of objects told is the API server's at one moment, and nothing
is told twice. What is known stays known while the API server is away; where a store was wiped or
restored, or history is gone, the whole list is told again (`full`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retina_otel.errors import RetinaError
from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.kubernetes.api.decode import Decoder, Wanted
from retina_otel.kubernetes.api.gate import Gate
from retina_otel.kubernetes.api.known import Known, Untold
from retina_otel.kubernetes.api.resources import RESOURCES, Resource
from retina_otel.kubernetes.api.stream import Stream
from retina_otel.kubernetes.objects import Kind, Object

__all__ = ["Change", "Kind", "Timing", "Wanted", "WatchState", "Watcher"]

_LOGGER = logging.getLogger(__name__)
_INITIAL_END = "k8s.io/initial-events-end"
_GONE = 410
_NO_WATCH_LIST = {400, 422}
"""How an API server answers that has not, or may not use, WatchList."""
_PART = 64
"""Objects of a list that are told at once, at least, where it is told in parts."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was read at once. `deleted` comes after `upserted`: an object may be in both."""

    kind: Kind
    upserted: list[Object]
    deleted: list[Object]
    """In the last state that is known."""
    full: bool
    """`upserted` is the complete list: what is not in it is gone. Or `listed` is, where the list
    was told before, in parts."""
    time_ns: int
    """Wall time after it was read."""
    listed: frozenset[str] | None = None
    """UIDs of a complete list, for listeners that compare by themselves."""


@dataclass(frozen=True, slots=True)
class WatchState:
    synced: bool
    """What was told is what the API server has, but for what is on its way."""
    since_ns: int
    reason: str = ""
    """Why not, with the remedy."""


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    after_s: float = 0.0
    """The first request comes so much later."""
    phase_s: float = 2.0
    """And after a random part of this: agents start together."""
    nap_s: float = 0.1
    """How long changes are gathered."""
    retry_first_s: float = 0.5
    retry_most_s: float = 30.0
    """Waits double from the first to this, each with jitter, until a watch lasts `lasting_s`."""
    lasting_s: float = 10.0
    connect_s: float = 15.0
    stale_s: float = 90.0
    """When nothing comes for so long the API server is asked, and the watch opened again: there is
    a bookmark each minute, but not where nothing has happened since the list."""
    watch_s: float = 600.0
    """The API server ends a watch after a random part, at least half, of this."""
    page: int = 500


class Watcher:
    """One kind, one thread, one connection."""

    def __init__(
        self,
        access: Access,
        kind: Kind,
        *,
        on_change: Callable[[Change], None],
        on_state: Callable[[WatchState], None],
        resource: Resource | None = None,
        selector: str = "",
        wanted: Wanted | None = None,
        timing: Timing | None = None,
        remember: bool = True,
    ) -> None:
        """`resource`: for kinds that not every cluster has. `selector`: a field selector,
        `spec.nodeName=a`. `remember` of False is for a listener that compares by itself: it is also
        told what has not changed, and whole lists in parts, so that no list is ever in memory.
        Callbacks come from the watcher's thread."""
        self._access = access
        self._kind = kind
        self._resource = resource or RESOURCES[kind]
        self._selector = selector
        self._decoder = Decoder(wanted or Wanted())
        self._timing = timing or Timing()
        self._gate = Gate()
        self._on_change = self._gate.guard(on_change)
        self._on_state = self._gate.guard(on_state)
        self._known = Known() if remember else Untold()
        self._in_parts = not remember
        self._listed: set[str] = set()
        self._version = ""
        """The newest resource version seen; empty when the next thing is a whole list."""
        self._cluster_uid: str | None = None
        self._streams_lists = True
        """The API server has WatchList, as far as is known."""
        self._state: WatchState | None = None
        self._failures = 0
        self._was_gone = False
        self._live_s: float | None = None
        """When the present watch began to tell changes."""
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"watch {self._resource.plural}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No callback comes after it has returned."""
        self.end()
        self._gate.shut()

    def end(self) -> None:
        """The thread ends as soon as the API server has answered what it asks just now. A callback
        may still come."""
        self._stop.set()
        if (stream := self._stream) is not None:
            stream.wake()

    # ---------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        timing = self._timing
        self._stop.wait(timing.after_s + random.uniform(0.0, timing.phase_s))
        while not self._stop.is_set():
            self._live_s = None
            failure = self._failure()
            if not self._stop.is_set():
                self._stop.wait(self._pause_s(failure))

    def _failure(self) -> AccessError | None:
        """One watch to its end. None if the API server ended it, as it does after a while."""
        try:
            self._check_store()
            self._follow()
        except AccessError as error:
            return error
        except protobuf.WireError as error:
            self._version = ""
            return AccessError(error.message, error.remedy)
        except RetinaError as error:
            return AccessError(error.message, error.remedy)
        except Exception as error:
            # Whoever was told has failed: what it has may be half of it.
            _LOGGER.exception("a change of %s was not taken", self._resource.plural)
            self._version = ""
            return AccessError(f"A change was not taken: {type(error).__name__}")
        finally:
            if self._stream is not None:
                self._stream.close()
                self._stream = None
        return None

    def _pause_s(self, failure: AccessError | None) -> float:
        """How long to wait before the next watch."""
        if self._live_s is not None and time.monotonic() - self._live_s >= self._timing.lasting_s:
            self._failures = 0
            self._was_gone = False
        if failure is None:
            return self._backoff_s() if self._failures else random.uniform(0.0, self._timing.nap_s)
        if failure.status in _NO_WATCH_LIST and self._streams_lists and not self._version:
            self._streams_lists = False
            return 0.0
        self._say(False, str(failure))
        if failure.status == _GONE:
            self._version = ""
            if not self._was_gone:
                self._was_gone = True
                return random.uniform(0.0, self._timing.retry_first_s)
        return max(failure.retry_after_s, self._backoff_s())

    def _backoff_s(self) -> float:
        most_s = self._timing.retry_first_s * 2.0 ** min(self._failures, 32)
        self._failures += 1
        return random.uniform(0.5, 1.0) * min(most_s, self._timing.retry_most_s)

    # -------------------------------------------------------------------------------- the store

    def _check_store(self) -> None:
        """Forgets our version if it means nothing to the store that is there now.

        A store that was wiped or restored from a copy counts its revisions from a lower one. It
        answers a watch from our higher version with silence, for ever.
        """
        uid = self._access.cluster_uid()
        if self._version:
            body = self._access.get(
                self._resource.path, {"limit": "1"}, accept=self._resource.list_accept
            )
            newest = self._resource.page(body).resource_version
            other = uid is not None and self._cluster_uid not in (None, uid)
            if other or not _at_least(newest, self._version):
                self._version = ""
                self._say(False, "The API server has another store: the list is read again")
        if uid is not None:
            self._cluster_uid = uid

    # -------------------------------------------------------------------------------- the watch

    def _follow(self) -> None:
        """Returns when the API server ends the watch. Raises AccessError, WireError."""
        self._listed.clear()
        if not self._version and not self._streams_lists:
            self._list()
        listing: list[Object] | None = None if self._version else []
        seconds = random.uniform(0.5, 1.0) * self._timing.watch_s
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        if self._selector:
            query["fieldSelector"] = self._selector
        if self._version:
            query["resourceVersion"] = self._version
        else:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        stream = self._stream = self._access.open_stream(
            self._resource.path,
            query,
            accept=self._resource.watch_accept,
            timeout_s=self._timing.connect_s,
        )
        if listing is None:
            self._synced()
        frames = self._resource.wire.splits()
        while not self._stop.is_set():
            try:
                if listing is None:
                    data = stream.read(self._timing.stale_s, self._timing.nap_s, self._stop)
                else:
                    data = stream.read(self._timing.stale_s)
                events = frames.feed(data)
            except EOFError:
                if listing is None:
                    return
                raise self._lost("it ended before the list did") from None
            except TimeoutError:
                if listing is None and self._answers():
                    return
                raise self._lost(f"nothing came for {self._timing.stale_s:g} s") from None
            except OSError as error:
                raise self._lost(error.strerror or str(error)) from error
            for frame in events:
                listing = self._take(frame, listing)
            if listing is None or self._known.pending >= _PART:
                self._tell()

    def _answers(self) -> bool:
        """Whether the API server does, so that only nothing has happened to this kind: there are
        no bookmarks either before its version has grown, which this question makes it notice."""
        try:
            with self._access.session(self._timing.connect_s) as session:
                session.request(
                    "GET",
                    self._resource.path,
                    {"limit": "1"},
                    accept=self._resource.list_accept,
                )
        except AccessError as error:
            return bool(error.status)
        return True

    def _take(self, frame: bytes, listing: list[Object] | None) -> list[Object] | None:
        """Takes one event; the list as far as it has come, None when it is told."""
        type_, message = self._resource.wire.event(self._resource.message, frame)
        if type_ == "ERROR":
            raise AccessError(
                f"The watch of {self._resource.plural} failed: {message.message[:500]}",
                status=message.code,
                retry_after_s=float(min(60, message.details.retry_after_seconds)),
            )
        if type_ == "BOOKMARK":
            meta = message.metadata
            if listing is None:
                self._version = meta.resource_version
            elif meta.annotations.get(_INITIAL_END) == "true":
                self._version = meta.resource_version
                self._tell_all(listing)
                self._synced()
                return None
            return listing
        object_ = self._decode(message)
        if listing is not None:
            # Nothing is deleted or changed within a list.
            self._add(listing, object_)
            return listing
        if type_ == "DELETED":
            self._known.delete(object_)
        else:
            self._known.upsert(object_)
        # Not the object's: one that is known already stands for its equal.
        self._version = message.metadata.resource_version
        return None

    def _list(self) -> None:
        """Pages, from an API server that cannot send a list as a watch."""
        found: list[Object] = []
        query = {"limit": str(self._timing.page)}
        if self._selector:
            query["fieldSelector"] = self._selector
        with self._access.session() as session:
            while not self._stop.is_set():
                body = session.request(
                    "GET", self._resource.path, query, accept=self._resource.list_accept
                )
                page = self._resource.page(body)
                for message in page.items:
                    self._add(found, self._decode(message))
                self._tell()
                if not page.continue_token:
                    break
                query["continue"] = page.continue_token
            else:
                return
        self._version = page.resource_version
        self._tell_all(found)

    def _decode(self, message: Any) -> Object:
        return self._known.same(self._resource.decode(self._decoder, message))

    # ---------------------------------------------------------------------------------- telling

    def _tell(self) -> None:
        upserted, deleted = self._known.take()
        if upserted or deleted:
            self._on_change(Change(self._kind, upserted, deleted, False, time.time_ns()))

    def _add(self, listing: list[Object], object_: Object) -> None:
        if self._in_parts:
            self._listed.add(object_.meta.uid)
            self._known.upsert(object_)
        else:
            listing.append(object_)

    def _tell_all(self, objects: list[Object]) -> None:
        if self._in_parts:
            self._tell()
            listed, self._listed = frozenset(self._listed), set()
            self._on_change(Change(self._kind, [], [], True, time.time_ns(), listed))
            return
        upserted, deleted = self._known.replace(objects)
        self._on_change(Change(self._kind, upserted, deleted, True, time.time_ns()))

    def _synced(self) -> None:
        self._live_s = time.monotonic()
        self._say(True)

    def _say(self, synced: bool, reason: str = "") -> None:
        before = self._state
        if before is None or (before.synced, before.reason) != (synced, reason):
            self._state = WatchState(synced, time.time_ns(), reason)
            self._on_state(self._state)

    def _lost(self, why: str) -> AccessError:
        return AccessError(
            f"The watch of {self._resource.plural} at {self._access.server} broke: {why}",
            "It is opened again; if this stays, check that the API server runs",
        )


def _at_least(version: str, other: str) -> bool:
    return version.isdigit() and other.isdigit() and int(version) >= int(other)

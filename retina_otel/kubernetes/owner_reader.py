"""OwnerReader: reads the metadata of owners that are not watched, one by one, as pods lead to them.

Each is asked for once; one that is gone, or that we may not read, ends the chain of owners where it
is. A thread of its own: nobody waits for it.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping
from urllib.parse import quote

from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.access import PROTOBUF, Access, AccessError
from retina_otel.kubernetes.api.decode import Decoder
from retina_otel.kubernetes.api.gate import Gate
from retina_otel.kubernetes.inventory.owners import Missing, group
from retina_otel.kubernetes.objects import OwnerRef, Workload

_METADATA = f"{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_FORBIDDEN = 403
_NOT_FOUND = 404
_RETRY_S = 30.0
_MOST_REMEMBERED = 20_000


class OwnerReader:
    """For whoever watches the objects that lead to owners; any thread."""

    def __init__(
        self,
        access: Access,
        on_found: Callable[[Workload], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """`on_refused` is told which right is missing, as RBAC writes it. From its thread."""
        self._access = access
        self._gate = Gate()
        self._on_found = self._gate.guard(on_found)
        self._on_refused = self._gate.guard(on_refused)
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._plurals: dict[tuple[str, str], tuple[str, bool] | None] = {}
        self._queue: queue.SimpleQueue[Missing | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owners", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No callback comes after it has returned."""
        self._stop.set()
        self._queue.put(None)
        self._gate.shut()

    def ask(self, missing: Mapping[str, Missing]) -> None:
        """For those that were not asked for yet."""
        with self._lock:
            if len(self._asked) > _MOST_REMEMBERED:
                self._asked &= missing.keys()
            for uid in missing.keys() - self._asked:
                self._asked.add(uid)
                self._queue.put(missing[uid])

    def forget(self, uid: str) -> None:
        """Nothing leads there any more."""
        with self._lock:
            self._asked.discard(uid)

    def _run(self) -> None:
        while (missing := self._queue.get()) is not None and not self._stop.is_set():
            while not self._answered(missing):
                if self._stop.wait(_RETRY_S):
                    return

    def _answered(self, missing: Missing) -> bool:
        """False if it is worth another attempt."""
        try:
            found = self._read(missing)
        except AccessError as error:
            if error.status == _FORBIDDEN:
                self._on_refused(error.missing_right)
            # The API server is away, or too busy, where it has not said no.
            return 400 <= error.status < 500 and error.status != 429
        except protobuf.WireError:
            return True
        if found is not None:
            self._on_found(found)
        return True

    def _read(self, missing: Missing) -> Workload | None:
        """None if it is gone or its kind is not served. Raises AccessError, WireError."""
        ref = missing.ref
        resource = self._resource(ref)
        if resource is None:
            return None
        plural, namespaced = resource
        where = f"/namespaces/{quote(missing.namespace, safe='')}" if namespaced else ""
        path = f"{_root(ref.api_version)}{where}/{plural}/{quote(ref.name, safe='')}"
        try:
            body = self._access.get(path, accept=_METADATA)
        except AccessError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        message = protobuf.parse("PartialObjectMetadata", protobuf.unwrap(body)[1])
        found = Decoder().workload(message, ref.api_version, ref.kind)
        return found if found.meta.uid == ref.uid else None

    def _resource(self, ref: OwnerRef) -> tuple[str, bool] | None:
        """Plural of a kind, and whether its objects are in namespaces; None if it isn't served."""
        key = (ref.api_version, ref.kind)
        if key not in self._plurals:
            try:
                served = json.loads(self._access.get(_root(ref.api_version)))["resources"]
                kinds = {
                    (ref.api_version, str(one["kind"])): (str(one["name"]), bool(one["namespaced"]))
                    for one in served
                    if "/" not in one["name"]
                }
            except AccessError as error:
                if error.status != _NOT_FOUND:
                    raise
                kinds = {}
            except (ValueError, KeyError, TypeError):
                kinds = {}
            self._plurals.update(kinds)
            self._plurals.setdefault(key, None)
        return self._plurals[key]


def _root(api_version: str) -> str:
    parts = "/".join(quote(part, safe="") for part in api_version.split("/", 1))
    return f"/apis/{parts}" if group(api_version) else f"/api/{parts}"

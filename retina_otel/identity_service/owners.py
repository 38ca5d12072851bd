"""Owners of custom kinds: read one by one, as what is watched leads to them, and told to agents.

Each is kept for as long as anything that is watched, or another owner, names it as its controller.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Change
from retina_otel.kubernetes.inventory.owners import Missing, kind_of
from retina_otel.kubernetes.objects import Kind, Object, Workload
from retina_otel.kubernetes.owner_reader import OwnerReader

OWNED = frozenset({Kind.POD, Kind.REPLICA_SET, Kind.JOB})


class CustomOwners:
    """Any thread."""

    def __init__(
        self,
        access: Access,
        on_change: Callable[[Change], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """`on_change` is told of Workloads of Kind.OWNER; `on_refused` of a missing right."""
        self._on_change = on_change
        self._reader = OwnerReader(access, self._found, on_refused)
        self._lock = threading.Lock()
        self._owner_of: dict[Kind, dict[str, str]] = {kind: {} for kind in (*OWNED, Kind.OWNER)}
        """Owners' uids by what they own."""
        self._owned = Counter[str]()
        self._known: dict[str, Workload] = {}

    def start(self) -> None:
        self._reader.start()

    def stop(self) -> None:
        self._reader.stop()

    def follow(self, change: Change) -> None:
        """Takes what a watch says of a kind that is `OWNED`."""
        with self._lock:
            upserted = {one.meta.uid: one for one in change.upserted}
            leaving = [one.meta.uid for one in change.deleted]
            if change.full:
                leaving += self._owner_of[change.kind].keys() - upserted.keys()
            missing = self._lead(change.kind, upserted.values())
            gone = [one for uid in leaving for one in self._leave(change.kind, uid)]
            self._tell([], gone)
        self._reader.ask(missing)

    def _found(self, workload: Workload) -> None:
        uid = workload.meta.uid
        with self._lock:
            if not self._owned[uid]:
                return
            self._known[uid] = workload
            missing = self._lead(Kind.OWNER, [workload])
            self._tell([workload], [])
        self._reader.ask(missing)

    def _lead(self, kind: Kind, objects: Iterable[Object]) -> dict[str, Missing]:
        """The owners that these lead to and that are not known."""
        owner_of = self._owner_of[kind]
        missing: dict[str, Missing] = {}
        for one in objects:
            ref, uid = one.meta.owner, one.meta.uid
            if ref is None or kind_of(ref) is not Kind.OWNER or uid in owner_of:
                continue
            owner_of[uid] = ref.uid
            self._owned[ref.uid] += 1
            if ref.uid not in self._known:
                missing[ref.uid] = Missing(one.meta.namespace, ref)
        return missing

    def _leave(self, kind: Kind, uid: str) -> list[Workload]:
        """The owners that nothing leads to once this is gone."""
        gone: list[Workload] = []
        owner = self._owner_of[kind].pop(uid, None)
        while owner is not None:
            self._owned[owner] -= 1
            if self._owned[owner] > 0:
                break
            del self._owned[owner]
            self._reader.forget(owner)
            if owner in self._known:
                gone.append(self._known.pop(owner))
            owner = self._owner_of[Kind.OWNER].pop(owner, None)
        return gone

    def _tell(self, upserted: list[Workload], deleted: list[Workload]) -> None:
        if upserted or deleted:
            told: tuple[list[Object], list[Object]] = ([*upserted], [*deleted])
            self._on_change(Change(Kind.OWNER, *told, False, time.time_ns()))

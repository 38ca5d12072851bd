"""Owners: from what controls a pod up to the top of the chain.

The chain ends at a workload of Kubernetes itself that people create (a Deployment, a CronJob, ...)
or at whatever no controller owns. What is not known yet ends it too, at the name that is known, and
is remembered as missing. Workloads that are gone stay for as long as a pod may ask for them: the
garbage collector deletes a ReplicaSet before its pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import lru_cache

from retina_otel.kubernetes.objects import Kind, OwnerRef, Workload

_TOP = frozenset(
    {
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("apps", "DaemonSet"),
        ("batch", "CronJob"),
        ("", "ReplicationController"),
        ("", "Node"),
    }
)
"""Never asked for an owner of its own: it is what people know."""
OWNER_KINDS = {("apps", "ReplicaSet"): Kind.REPLICA_SET, ("batch", "Job"): Kind.JOB}
_LONGEST_CHAIN = 8
_GONE_BEFORE_SWEEP = 512


@dataclass(frozen=True, slots=True)
class Missing:
    """An owner whose own owner was asked for and is not known."""

    namespace: str
    """Where it is, if its kind has a namespace: that of what it owns."""
    ref: OwnerRef


@dataclass(slots=True)
class _Known:
    kind: str
    name: str
    owner: OwnerRef | None
    watched: Kind
    gone: bool = False


def group(api_version: str) -> str:
    """The API group of "apps/v1"; empty for the core."""
    return api_version.rpartition("/")[0]


def kind_of(owner: OwnerRef) -> Kind | None:
    """How an owner's own owner is found out; None where nobody asks."""
    return _kind_of(owner.api_version, owner.kind)


@lru_cache(maxsize=256)
def _kind_of(api_version: str, kind: str) -> Kind | None:
    of = (group(api_version), kind)
    return None if of in _TOP else OWNER_KINDS.get(of, Kind.OWNER)


class Owners:
    """Workloads by uid."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._asked: set[str] = set()
        self._missing: dict[str, Missing] = {}
        self._n_gone = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def missing(self) -> dict[str, Missing]:
        """By uid."""
        return self._missing

    def top(self, namespace: str, owner: OwnerRef) -> tuple[str, str]:
        """Name and kind (in lower case) of the top of the chain that begins at `owner`, which owns
        something in `namespace`."""
        for _ in range(_LONGEST_CHAIN):
            if kind_of(owner) is None or not owner.uid:
                break
            self._asked.add(owner.uid)
            known = self._known.get(owner.uid)
            if known is None:
                self._missing[owner.uid] = Missing(namespace, owner)
                break
            if known.owner is None:
                break
            owner = known.owner
        return owner.name, owner.kind.lower()

    def apply(
        self,
        kind: Kind,
        upserts: Iterable[Workload],
        deletes: Iterable[Workload],
        there: frozenset[str] | None,
    ) -> set[str]:
        """Of which workloads the top of a chain that was asked for may be another now. `there`:
        uids of all of this kind that there are, where that was told."""
        changed = set()
        for workload in upserts:
            uid = workload.meta.uid
            before = self._known.get(uid)
            if before is not None and before.owner == workload.meta.owner:
                self._n_gone -= before.gone
                before.gone = False
                before.watched = kind
                continue
            owner = workload.meta.owner
            self._known[uid] = _Known(workload.kind, workload.meta.name, owner, kind)
            self._missing.pop(uid, None)
            if uid in self._asked:
                changed.add(uid)
        leaving = [workload.meta.uid for workload in deletes]
        if there is not None:
            leaving += [
                uid
                for uid, known in self._known.items()
                if known.watched is kind and uid not in there
            ]
        for uid in leaving:
            if uid in self._known and not self._known[uid].gone:
                self._known[uid].gone = True
                self._n_gone += 1
        return changed

    def leads_through(self, owner: OwnerRef, uids: Set[str]) -> bool:
        """Whether the chain that begins at `owner` has any of these workloads in it."""
        for _ in range(_LONGEST_CHAIN):
            if owner.uid in uids:
                return True
            known = self._known.get(owner.uid)
            if known is None or known.owner is None:
                return False
            owner = known.owner
        return False

    def sweep_due(self) -> bool:
        return self._n_gone > max(_GONE_BEFORE_SWEEP, len(self._known) // 4)

    def sweep(self, used: Iterable[OwnerRef]) -> None:
        """Forgets workloads that are gone and lead up from none of `used`."""
        needed: set[str] = set()
        for ref in used:
            owner: OwnerRef | None = ref
            while owner is not None and owner.uid not in needed:
                needed.add(owner.uid)
                known = self._known.get(owner.uid)
                owner = known.owner if known else None
        for uid in [u for u, known in self._known.items() if known.gone and u not in needed]:
            del self._known[uid]
        self._asked &= needed
        self._missing = {uid: ref for uid, ref in self._missing.items() if uid in needed}
        self._n_gone = sum(known.gone for known in self._known.values())

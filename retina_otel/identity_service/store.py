"""What the service knows, and a bounded log of what changed: one writer of each kind, many readers.

Watches put changes in from their threads; `cut` closes what came since the last cut into a batch
with the next sequence. A reader is no more than a sequence: the log is its queue, blocks are coded
once whatever the number of readers, and one that has fallen behind the log starts from a snapshot.
So readers cost no memory here and can't slow each other down. Log and snapshots start anew, under
another epoch, when the cluster is another one or more has changed at once than the log holds.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import zstandard

from retina_otel.identity_service.codec import MOST_BYTES, encode_block
from retina_otel.identity_service.protocol import MOST_FRAME_BYTES, part
from retina_otel.kubernetes.api.watch import Change
from retina_otel.kubernetes.objects import Kind, Object, Pod

Objects = Mapping[str, Object]
"""By UID."""

_SYSTEM_NAMESPACE = "kube-system"  # its UID is the cluster's, by convention
_BLOCK_OBJECTS = 1_000
_NOT_SHARED = ("containers",)


def node_topic(kind: Kind, node: str) -> str:
    """What of a kind belongs to one node."""
    return f"{kind.value}@{node}"


class Coded:
    """Objects of several kinds, as parts for frames; each coded at the first need."""

    def __init__(self, objects: Mapping[str, Sequence[Object]], *, deleted: bool = False) -> None:
        self._objects = objects
        self._deleted = deleted
        self._parts: dict[str, list[bytes]] = {}
        self._by_node: dict[str, dict[str, list[Object]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    def parts(self, topic: str) -> list[bytes]:
        """Any thread."""
        with self._lock:
            if (known := self._parts.get(topic)) is not None:
                return known
            # Names of nodes are the clients': of those that there are not nothing is kept.
            if parts := self._code(topic):
                self._parts[topic] = parts
            return parts

    def _code(self, topic: str) -> list[bytes]:
        kind, _, node = topic.partition("@")
        objects: Sequence[Object] = self._objects.get(kind, ())
        without: Sequence[str] = ()
        if node:
            objects = self._of_node(kind, node)
        elif kind == Kind.POD.value:
            without = _NOT_SHARED
        return [
            part(topic, self._deleted, block)
            for start in range(0, len(objects), _BLOCK_OBJECTS)
            for block in _blocks(objects[start : start + _BLOCK_OBJECTS], without)
        ]

    def _of_node(self, kind: str, node: str) -> Sequence[Object]:
        by_node = self._by_node.get(kind)
        if by_node is None:
            by_node = self._by_node[kind] = {}
            for one in self._objects.get(kind, ()):
                name = one.node if isinstance(one, Pod) else one.meta.name
                by_node.setdefault(name, []).append(one)
        return by_node.get(node, ())


def _blocks(objects: Sequence[Object], without: Sequence[str]) -> Iterable[bytes]:
    block = encode_block(objects, without=without)
    fits = len(block) <= MOST_FRAME_BYTES // 8
    if (fits and zstandard.frame_content_size(block) <= MOST_BYTES // 2) or len(objects) == 1:
        return (block,)
    middle = len(objects) // 2
    return (*_blocks(objects[:middle], without), *_blocks(objects[middle:], without))


class Batch:
    """What changed between two cuts."""

    def __init__(
        self,
        sequence: int,
        deleted: Mapping[str, Objects],
        upserted: Mapping[str, Objects],
    ) -> None:
        self.sequence = sequence
        self._coded = (
            Coded(_lists(deleted), deleted=True),
            Coded(_lists(upserted)),
        )
        self.frames: dict[tuple[str, ...], bytes] = {}
        """Whole frames by topics, for readers that want the same."""

    def __len__(self) -> int:
        return sum(map(len, self._coded))

    def parts(self, topics: Iterable[str]) -> list[bytes]:
        return [one for topic in topics for coded in self._coded for one in coded.parts(topic)]


class Snapshot:
    """All there was at a sequence."""

    def __init__(self, sequence: int, objects: Mapping[str, Objects]) -> None:
        self.sequence = sequence
        self._coded = Coded(_lists(objects))

    def parts(self, topics: Iterable[str]) -> list[bytes]:
        return [one for topic in topics for one in self._coded.parts(topic)]


def _lists(objects: Mapping[str, Objects]) -> dict[str, list[Object]]:
    return {kind: list(by_uid.values()) for kind, by_uid in objects.items() if by_uid}


class Store:
    """Any thread."""

    def __init__(self, *, log_objects: int = 20_000) -> None:
        self._least_log = log_objects
        self._lock = threading.Lock()
        self._objects: dict[str, dict[str, Object]] = {}
        self._upserted: dict[str, dict[str, Object]] = {}
        self._deleted: dict[str, dict[str, Object]] = {}
        self._revisions: dict[str, int] = {}
        self._log: deque[Batch] = deque()
        self._logged = 0
        self._since_snapshot = 0
        self._snapshot: Snapshot | None = None
        self._sequence = 0
        self._epoch = _new_epoch()
        self._cluster = ""

    @property
    def position(self) -> tuple[str, str, int]:
        """Cluster, epoch, and the sequence of the last batch."""
        with self._lock:
            return self._cluster, self._epoch, self._sequence

    def revision(self, kind: str) -> int:
        """The highest resourceVersion that was seen."""
        return self._revisions.get(kind, 0)

    def counts(self) -> dict[str, int]:
        """Objects by kind."""
        with self._lock:
            return {kind: len(objects) for kind, objects in self._objects.items()}

    def apply(self, change: Change) -> None:
        """What a watch says. What differs in nothing but resourceVersion is no change."""
        kind = change.kind.value
        with self._lock:
            objects = self._objects.setdefault(kind, {})
            upserted = self._upserted.setdefault(kind, {})
            deleted = self._deleted.setdefault(kind, {})
            if change.full:
                there = {one.meta.uid for one in change.upserted}
                gone = [one for uid, one in objects.items() if uid not in there]
                gone += change.deleted
            else:
                gone = change.deleted
            self._see(kind, (change.upserted, change.deleted))
            for one in change.upserted:
                uid = one.meta.uid
                before = objects.get(uid)
                objects[uid] = one
                if before != one:
                    upserted[uid] = one
                    deleted.pop(uid, None)
            for one in gone:
                uid = one.meta.uid
                objects.pop(uid, None)
                upserted.pop(uid, None)
                deleted[uid] = one

    def cut(self) -> Batch | None:
        """Closes the batch; None if nothing has changed."""
        with self._lock:
            upserted, self._upserted = self._upserted, {}
            deleted, self._deleted = self._deleted, {}
            changed = sum(map(len, (*upserted.values(), *deleted.values())))
            if not changed:
                return None
            self._sequence += 1
            batch = Batch(self._sequence, deleted, upserted)
            cluster = self._cluster_uid() or self._cluster
            limit = self._log_limit()
            if cluster != self._cluster or changed > limit:
                self._cluster, self._epoch = cluster, _new_epoch()
                self._log.clear()
                self._logged, self._snapshot = 0, None
                return batch
            self._log.append(batch)
            self._logged += changed
            self._since_snapshot += changed
            while self._logged > limit:
                self._logged -= len(self._log.popleft())
            return batch

    def has_since(self, epoch: str, sequence: int) -> bool:
        """Whether the log has every batch after `sequence`."""
        with self._lock:
            return epoch == self._epoch and 0 <= self._sequence - sequence <= len(self._log)

    def after(self, epoch: str, sequence: int) -> Batch | None:
        """The batch after `sequence`; None if there is none, or no longer."""
        with self._lock:
            behind = self._sequence - sequence
            if epoch != self._epoch or not 0 < behind <= len(self._log):
                return None
            return self._log[len(self._log) - behind]

    def snapshot(self) -> tuple[str, str, Snapshot]:
        """Cluster, epoch and a snapshot from which the log goes on; an earlier one, if what has
        changed since is little beside it."""
        with self._lock:
            snapshot = self._snapshot
            total = sum(map(len, self._objects.values()))
            if (
                snapshot is None
                or self._sequence - snapshot.sequence > len(self._log)
                or self._since_snapshot > max(1_000, total // 4)
            ):
                # Changes not cut yet are in it already; they come once more with their batch.
                snapshot = self._snapshot = Snapshot(self._sequence, self._objects)
                self._since_snapshot = 0
            return self._cluster, self._epoch, snapshot

    def _see(self, kind: str, groups: Iterable[Iterable[Object]]) -> None:
        revision = self._revisions.get(kind, 0)
        for group in groups:
            for one in group:
                version = one.meta.resource_version
                if version.isdecimal():
                    revision = max(revision, int(version))
        self._revisions[kind] = revision

    def _cluster_uid(self) -> str:
        namespaces = self._objects.get(Kind.NAMESPACE.value, {}).values()
        return next((one.meta.uid for one in namespaces if one.meta.name == _SYSTEM_NAMESPACE), "")

    def _log_limit(self) -> int:
        return max(self._least_log, sum(map(len, self._objects.values())) // 2)


def _new_epoch() -> str:
    return uuid.uuid4().hex

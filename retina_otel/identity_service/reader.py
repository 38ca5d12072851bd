"""One agent's place in the log: what it wants, where it is, and the frames it gets next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from retina_otel.identity_service.protocol import FULL, LAST, Subscription, changes
from retina_otel.identity_service.store import Batch, Snapshot, Store, node_topic
from retina_otel.kubernetes.objects import Kind

_FRAME_BYTES = 64 << 10
"""Frames are filled up to this, so that one in flight for each of many agents takes little."""


def topics_of(subscription: Subscription) -> tuple[str, ...]:
    """What to send, what is of its own node first."""
    kinds, node = set(subscription.kinds), subscription.node
    own = [Kind.POD] if not subscription.local else [Kind.POD, Kind.NODE]
    topics = [node_topic(kind, node) for kind in own if node and kind.value in kinds]
    if subscription.local:
        kinds -= {kind.value for kind in own}
    return (*topics, *sorted(kinds))


@dataclass(slots=True)
class Reader:
    """Not for many threads at a time."""

    store: Store
    topics: tuple[str, ...]
    cluster: str = ""
    epoch: str = ""
    sequence: int = 0

    def resume(self, subscription: Subscription) -> bool:
        """Whether the log goes on from where the client says it is."""
        cluster, epoch, _ = self.store.position
        self.cluster, self.epoch, self.sequence = cluster, epoch, subscription.sequence
        return (
            subscription.cluster == cluster
            and subscription.epoch == epoch
            and self.store.has_since(epoch, subscription.sequence)
        )

    def start_over(self) -> Snapshot:
        """The snapshot to send; the log goes on from there."""
        self.cluster, self.epoch, snapshot = self.store.snapshot()
        self.sequence = snapshot.sequence
        return snapshot

    def snapshot_frames(self, snapshot: Snapshot) -> Iterator[bytes]:
        """CPU time, unless another reader has asked for the same."""
        groups = list(_filled(snapshot.parts(self.topics)))
        for number, group in enumerate(groups, 1):
            flags = FULL | (LAST if number == len(groups) else 0)
            yield changes(snapshot.sequence, flags, group)

    @property
    def behind(self) -> bool:
        """The log no longer has what comes next: it has to start over."""
        return not self.store.has_since(self.epoch, self.sequence)

    def next(self) -> Batch | None:
        """The batch that it has not had yet. One at a time: a reader that is stuck must not keep
        the log's past alive."""
        return self.store.after(self.epoch, self.sequence)

    def batch_frames(self, batch: Batch) -> Iterator[bytes]:
        """The frames of one batch; none if nothing in it is for this reader."""
        self.sequence = batch.sequence
        shared = tuple(topic for topic in self.topics if "@" not in topic)
        own = batch.parts([topic for topic in self.topics if "@" in topic])
        if not own and (known := batch.frames.get(shared)) is not None:
            yield known
            return
        groups = list(_filled([*own, *batch.parts(shared)]))
        if not groups or not groups[0]:
            return
        for number, group in enumerate(groups, 1):
            frame = changes(batch.sequence, LAST if number == len(groups) else 0, group)
            if not own and len(groups) == 1:
                batch.frames[shared] = frame
            yield frame


def _filled(parts: list[bytes]) -> Iterator[list[bytes]]:
    """Parts in groups for frames; one empty group if there are none."""
    group: list[bytes] = []
    size = 0
    for one in parts:
        if group and size + len(one) > _FRAME_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += len(one)
    yield group

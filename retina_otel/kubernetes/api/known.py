"""What a watcher has to tell and, if it is asked to, what it has told before."""

from __future__ import annotations

from collections.abc import Iterable

from retina_otel.kubernetes.objects import Object


class Untold:
    """The changes since `take`, and nothing else: for listeners that compare by themselves. They
    are told of objects that have not changed, and not which ones a whole list lacks."""

    def __init__(self) -> None:
        self._upserted: dict[str, Object] = {}
        self._deleted: dict[str, Object] = {}

    @property
    def pending(self) -> int:
        """How many changes there are to take."""
        return len(self._upserted) + len(self._deleted)

    def upsert(self, object_: Object) -> None:
        uid = object_.meta.uid
        self._upserted[uid] = object_
        self._deleted.pop(uid, None)

    def delete(self, object_: Object) -> None:
        """What lived for so short a time that it was not told yet stays in what is upserted."""
        self._deleted[object_.meta.uid] = object_

    def take(self) -> tuple[list[Object], list[Object]]:
        """What was upserted since the last call, and what was deleted."""
        taken = list(self._upserted.values()), list(self._deleted.values())
        self._upserted.clear()
        self._deleted.clear()
        return taken

    def same(self, object_: Object) -> Object:
        """The object that stands for this one."""
        return object_

    def replace(self, objects: Iterable[Object]) -> tuple[list[Object], list[Object]]:
        """Takes a whole list. Returns all of it, and those known before that are not in it."""
        self._upserted.clear()
        self._deleted.clear()
        return list(objects), []


class Known(Untold):
    """Remembers all objects, by uid: tells nothing twice, and what a whole list lacks."""

    def __init__(self) -> None:
        super().__init__()
        self._objects: dict[str, Object] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def upsert(self, object_: Object) -> None:
        """Of what `same` has returned."""
        uid = object_.meta.uid
        if self._objects.get(uid) is not object_:
            self._objects[uid] = object_
            super().upsert(object_)

    def delete(self, object_: Object) -> None:
        self._objects.pop(object_.meta.uid, None)
        super().delete(object_)

    def same(self, object_: Object) -> Object:
        """The object that is known already, if it is equal: one of both can go."""
        known = self._objects.get(object_.meta.uid)
        return known if known is not None and known == object_ else object_

    def replace(self, objects: Iterable[Object]) -> tuple[list[Object], list[Object]]:
        before, self._objects = self._objects, {one.meta.uid: one for one in objects}
        super().replace(())
        gone = [one for uid, one in before.items() if uid not in self._objects]
        return list(self._objects.values()), gone

"""What a watcher has told, so that it tells nothing twice."""

from __future__ import annotations

from collections.abc import Iterable

from retina_otel.kubernetes.objects import Object


class Known:
    """Objects by uid, and the changes since `take`."""

    def __init__(self) -> None:
        self._objects: dict[str, Object] = {}
        self._upserted: dict[str, Object] = {}
        self._deleted: dict[str, Object] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def upsert(self, object_: Object) -> None:
        """Of what `same` has returned."""
        uid = object_.meta.uid
        if self._objects.get(uid) is not object_:
            self._objects[uid] = self._upserted[uid] = object_
            self._deleted.pop(uid, None)

    def delete(self, object_: Object) -> None:
        """What lived for so short a time that it was not told yet stays in what is upserted."""
        uid = object_.meta.uid
        self._objects.pop(uid, None)
        self._deleted[uid] = object_

    def take(self) -> tuple[list[Object], list[Object]]:
        """What was upserted since the last call, and what was deleted."""
        taken = list(self._upserted.values()), list(self._deleted.values())
        self._upserted.clear()
        self._deleted.clear()
        return taken

    def same(self, object_: Object) -> Object:
        """The object that is known already, if it is equal: one of both can go."""
        known = self._objects.get(object_.meta.uid)
        return known if known is not None and known == object_ else object_

    def replace(self, objects: Iterable[Object]) -> tuple[list[Object], list[Object]]:
        """Takes a whole list. Returns all of it, and those known before that are not in it."""
        before, self._objects = self._objects, {one.meta.uid: one for one in objects}
        self._upserted.clear()
        self._deleted.clear()
        gone = [one for uid, one in before.items() if uid not in self._objects]
        return list(self._objects.values()), gone

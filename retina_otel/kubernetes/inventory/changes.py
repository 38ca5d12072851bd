"""What a change of objects comes to: endpoints that are new or changed, and keys that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from retina_otel.pipeline.identity.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class InventoryChange:
    """To be applied in this order."""

    added: Sequence[Endpoint] = ()
    """New or changed. Among them the last word on the times of those that are removed."""
    removed: Sequence[str] = ()
    """Keys."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass(slots=True)
class Changes:
    """Gathers a change: each key once, with its newest state."""

    added: dict[str, Endpoint] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)

    def put(self, endpoint: Endpoint) -> None:
        self.added[endpoint.key] = endpoint
        self.removed.pop(endpoint.key, None)

    def end(self, key: str, final: Endpoint | None = None) -> None:
        """`final`: its last state, which those who still hold rows of it go by."""
        if final is None:
            self.added.pop(key, None)
        else:
            self.added[key] = final
        self.removed[key] = None

    def done(self) -> InventoryChange:
        return InventoryChange(list(self.added.values()), list(self.removed))

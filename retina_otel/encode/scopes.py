"""What an export says about its resource and its instrumentation scopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from retina_otel import __version__
from retina_otel.model.attribute_sets import AttributeSet
from retina_otel.model.batches import AttributeValue
from retina_otel.model.preview import PREVIEW_SCHEMA_URL, PREVIEW_SCOPE
from retina_otel.model.signals import SCHEMA_URL


@dataclass(frozen=True, slots=True)
class EntityRef:
    """An entity that the resource stands for; keys must be among the resource's attributes."""

    type: str
    id_keys: tuple[str, ...]
    description_keys: tuple[str, ...] = ()


_ENTITIES = (
    EntityRef("k8s.cluster", ("k8s.cluster.uid",), ("k8s.cluster.name",)),
    EntityRef("k8s.node", ("k8s.node.uid",), ("k8s.node.name",)),
    EntityRef("k8s.pod", ("k8s.pod.uid",), ("k8s.pod.name",)),
    EntityRef("service.instance", ("service.instance.id",)),
)


def entities_of(attributes: AttributeSet) -> tuple[EntityRef, ...]:
    """The entities that a resource with these attributes stands for."""
    keys = {key for key, _ in attributes}
    return tuple(
        replace(one, description_keys=tuple(key for key in one.description_keys if key in keys))
        for one in _ENTITIES
        if keys.issuperset(one.id_keys)
    )


def sorted_set(attributes: Mapping[str, AttributeValue]) -> AttributeSet:
    return tuple(sorted(attributes.items()))


def scope_identity(scope: str) -> tuple[str, str]:
    """Version and schema URL of a scope: ours for our modules, unknown for a third party's."""
    if scope == PREVIEW_SCOPE:
        return __version__, PREVIEW_SCHEMA_URL
    ours = scope == "retina_otel" or scope.startswith("retina_otel.")
    return (__version__, SCHEMA_URL) if ours else ("", "")

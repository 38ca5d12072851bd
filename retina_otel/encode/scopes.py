"""What an export says about its resource and its instrumentation scopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retina_otel import __version__
from retina_otel.model.attribute_sets import AttributeSet
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import SCHEMA_URL


@dataclass(frozen=True, slots=True)
class EntityRef:
    """An entity that the resource stands for; keys must be among the resource's attributes."""

    type: str
    id_keys: tuple[str, ...]
    description_keys: tuple[str, ...] = ()
    schema_url: str = ""


def sorted_set(attributes: Mapping[str, AttributeValue]) -> AttributeSet:
    return tuple(sorted(attributes.items()))


def scope_identity(scope: str) -> tuple[str, str]:
    """Version and schema URL of a scope: ours for our modules, unknown for a third party's."""
    ours = scope == "retina_otel" or scope.startswith("retina_otel.")
    return (__version__, SCHEMA_URL) if ours else ("", "")

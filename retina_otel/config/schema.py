"""JSON Schema of the configuration, for editors and charts, from the models that check it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from retina_otel.config.load import closed
from retina_otel.config.registry import SECTIONS, Offer, Registry
from retina_otel.config.settings import ServiceSettings

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(
    registry: Registry, *, which: Callable[[Offer], bool] = lambda offer: True
) -> dict[str, Any]:
    """The schema for the offers that `which` picks. Values from `${env:...}` are checked later."""
    offers = [offer for offer in registry.offers() if which(offer)]
    models: dict[tuple[str, str], type[BaseModel]] = {
        (SECTIONS[offer.kind], offer.type): closed(registry.load(offer.kind, offer.type).Settings)
        for offer in offers
    }
    checked: list[type[BaseModel]] = [*dict.fromkeys(models.values()), ServiceSettings]
    references, definitions = models_json_schema(
        [(model, "validation") for model in checked], ref_template="#/$defs/{model}"
    )
    properties: dict[str, Any] = {}
    for section in SECTIONS.values():
        types = sorted(type_ for known, type_ in models if known == section)
        properties[section] = {
            "description": f"The {section}, by `type` or `type/name`.",
            "type": ["object", "null"],
            "additionalProperties": False,
            "patternProperties": {
                f"^{type_}(/.+)?$": {
                    "anyOf": [references[models[section, type_], "validation"], {"type": "null"}]
                }
                for type_ in types
            },
        }
    properties["service"] = references[ServiceSettings, "validation"]
    return {
        "$schema": DIALECT,
        "title": "Configuration of retina-otel",
        "type": "object",
        "additionalProperties": False,
        "required": ["service"],
        "properties": properties,
        "$defs": dict(sorted(definitions.get("$defs", {}).items())),
    }

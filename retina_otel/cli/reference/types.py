"""Types and defaults of settings in the words of the reference pages."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo


def brief(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring, empty if it is pydantic's or the base's."""
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    return " ".join(text.partition("\n\n")[0].split())


def type_text(field: FieldInfo) -> str:
    """What may be written: from the JSON Schema of the field, since that is what checks it."""
    adapter: TypeAdapter[Any] = TypeAdapter(_annotated(field))
    return _schema_text(adapter.json_schema(), {})


def _annotated(field: FieldInfo) -> Any:
    if not field.metadata:
        return field.annotation
    return Annotated[field.annotation, *field.metadata]


def _schema_text(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    definitions = schema.get("$defs", definitions)
    if reference := schema.get("$ref"):
        return _schema_text(definitions[reference.rpartition("/")[2]], definitions)
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        parts = [_schema_text(one, definitions) for one in schema["anyOf"]]
        if examples := schema.get("examples"):
            return f"size such as `{examples[0]}`"
        return " or ".join(dict.fromkeys(part for part in parts if part != "null"))
    if schema.get("type") == "array":
        inside = _schema_text(schema.get("items", {}), definitions)
        return f"list of {inside}" if inside else "list"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        inside = _schema_text(values, definitions) if isinstance(values, dict) else ""
        return f"mapping to {inside}" if inside else "mapping"
    if schema.get("type") == "string" and schema.get("examples"):
        return f"duration such as `{schema['examples'][0]}`"
    names = {"string": "text", "boolean": "true or false"}
    kind = str(schema.get("type", ""))
    return names.get(kind, kind)


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "not set"
    adapter: TypeAdapter[Any] = TypeAdapter(_annotated(field))
    if isinstance(value, BaseModel):
        return ""
    if not isinstance(value, str):
        value = adapter.dump_python(value, mode="json")
    if isinstance(value, Enum):
        value = value.value
    if value in ({}, []):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"

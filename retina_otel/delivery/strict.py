"""The base of settings that exporters share: unknown keys are refused, docstrings are told."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictSettings(BaseModel):
    """Frozen; a docstring under a field is its description in the reference and the JSON Schema."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

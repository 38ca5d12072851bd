"""The checked-in reference pages and JSON Schema are what the code says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retina_otel.cli.reference import pages as reference

FOLDER = Path(__file__).parents[3] / reference.FOLDER
PAGES = reference.pages()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_current(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name], "run `make docs`"


def test_no_page_is_left_over() -> None:
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_file()) == sorted(PAGES)


def test_schema_refuses_what_the_agent_refuses() -> None:
    schema = json.loads(PAGES["config.schema.json"])
    flows = [
        key for key in schema["properties"]["receivers"]["patternProperties"] if "flows" in key
    ]
    assert flows == ["^flows(/.+)?$"]
    assert schema["properties"]["receivers"]["additionalProperties"] is False
    assert schema["required"] == ["service"]
    closed = [
        one.get("additionalProperties", "open")
        for one in schema["$defs"].values()
        if one["type"] == "object"
    ]
    assert set(closed) == {False}


def test_every_setting_has_a_description() -> None:
    table = [line for line in PAGES["configuration.md"].splitlines() if line.startswith("| `")]
    without = [line for line in table if line.endswith("|  |")]
    assert without == []

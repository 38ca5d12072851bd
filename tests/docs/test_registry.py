"""The signals as data: current, whole, and nothing in it that cannot be resolved.

What the conventions have released is known from OpenTelemetry's own package for Python.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opentelemetry.semconv._incubating.attributes as incubating_attributes
import opentelemetry.semconv._incubating.metrics as incubating_metrics
import opentelemetry.semconv.attributes as stable_attributes
import opentelemetry.semconv.schemas as semconv_schemas
import pytest
import yaml

from retina_otel.agent.resource import detect
from retina_otel.cli.reference.registry import REGISTRY, SCHEMAS, SEMCONV, SIGNALS, files
from retina_otel.model import preview
from retina_otel.model.signals import PREFIX, SCHEMA_URL, Event, Metric
from tests.docs.pages import ROOT


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / REGISTRY / name).read_text())
    return loaded


def constants(package: Any) -> Iterator[str]:
    """Every text that a package of constants has."""
    for module in pkgutil.iter_modules(package.__path__):
        found = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
        yield from (value for name, value in found.items() if isinstance(value, str))


def signals() -> list[dict[str, Any]]:
    return [*load("metrics.yaml")["metrics"], *load("events.yaml")["events"]]


def references() -> set[str]:
    groups = load("attributes.yaml")["attribute_groups"]
    return {
        one["ref"] for each in (*groups, *signals()) for one in each["attributes"] if "ref" in one
    }


DEFINED = [one["key"] for one in load("attributes.yaml")["attributes"]]
RELEASED = {*constants(incubating_attributes), *constants(stable_attributes)}


@pytest.mark.parametrize("path", list(files()), ids=str)
def test_each_file_is_as_the_source_says(path: Path) -> None:
    assert (ROOT / path).read_text() == files()[path], "run `make docs`"


def test_there_are_no_other_files() -> None:
    there = {path.relative_to(ROOT) for path in (ROOT / REGISTRY).iterdir()}
    there |= {path.relative_to(ROOT) for path in (ROOT / SCHEMAS).iterdir()}
    assert there == set(files())


def test_every_signal_is_defined_or_imported() -> None:
    defined = [one["name"] for one in signals()]
    assert len(defined) == len(set(defined))
    ours = {one.name for one in SIGNALS if one.name.startswith(PREFIX)}
    assert set(defined) == ours
    imported = load("metrics.yaml")["imports"]["metrics"]
    assert set(imported) == {one.name for one in SIGNALS} - ours


def test_every_attribute_that_is_referred_to_is_defined_here_or_released() -> None:
    assert references() - set(DEFINED) <= RELEASED


def test_nothing_is_defined_twice_or_again() -> None:
    assert len(DEFINED) == len(set(DEFINED))
    assert set(DEFINED) & RELEASED == set()


def test_every_definition_is_referred_to() -> None:
    assert set(DEFINED) == references() - RELEASED


def test_a_metric_that_is_imported_has_been_released() -> None:
    assert set(load("metrics.yaml")["imports"]["metrics"]) <= {*constants(incubating_metrics)}


def test_the_agents_resource_stands_for_entities_that_are_imported() -> None:
    nodes = dict.fromkeys(("K8S_NODE_NAME", "K8S_NODE_UID", "K8S_CLUSTER_NAME"), "x")
    entities = load("resource.yaml")["imports"]["entities"]
    for key in detect(nodes):
        assert key in RELEASED
        assert any(key.startswith(f"{entity}.") for entity in entities), key


def test_no_signal_refers_to_an_attribute_twice() -> None:
    groups = {
        one["id"]: [each["ref"] for each in one["attributes"]]
        for one in load("attributes.yaml")["attribute_groups"]
    }
    for signal in signals():
        names = [one["ref"] for one in signal["attributes"] if "ref" in one]
        for one in signal["attributes"]:
            names += groups.get(one.get("ref_group", ""), [])
        assert len(names) == len(set(names)), signal["name"]


def test_definitions_say_what_weaver_wants_to_know() -> None:
    for one in load("attributes.yaml")["attributes"]:
        assert {"key", "type", "brief", "stability"} <= one.keys()
        if "string" in one["type"]:
            assert one["examples"], one["key"]
    for one in load("metrics.yaml")["metrics"]:
        assert one["instrument"] in {"counter", "updowncounter", "gauge", "histogram"}
        assert one["unit"]


def test_the_registry_builds_on_the_conventions_that_are_named() -> None:
    (dependency,) = load("manifest.yaml")["dependencies"]
    released = {one.value for one in semconv_schemas.Schemas}
    assert dependency["schema_url"] in released
    assert dependency["schema_url"].endswith(f"/{SEMCONV}")
    assert f"v{SEMCONV}." in dependency["registry_path"]
    assert load("manifest.yaml")["schema_url"] == SCHEMA_URL


@pytest.mark.parametrize("url", [SCHEMA_URL, preview.PREVIEW_SCHEMA_URL])
def test_a_schema_file_is_where_its_url_says(url: str) -> None:
    version = url.rpartition("/")[2]
    schema = yaml.safe_load((ROOT / SCHEMAS / version).read_text())
    assert schema["file_format"] == "1.1.0"
    assert schema["schema_url"] == url
    assert next(iter(schema["versions"])) == version


def test_the_preview_renames_what_there_is() -> None:
    by_name = {one.name: one for one in SIGNALS}
    for name, draft in preview.METRICS.items():
        assert isinstance(by_name[name], Metric)
        assert draft not in by_name
    own = {one.name for signal in SIGNALS for one in signal.attributes}
    assert set(preview.ATTRIBUTES) <= own
    assert not any(isinstance(by_name[name], Event) for name in preview.METRICS)

"""What is made from the source is as the source says now, and leaves nothing out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from retina_otel.agent.own_metrics import OWN_METRICS
from retina_otel.cli import app
from retina_otel.cli.reference import pages as reference
from retina_otel.component import Component
from retina_otel.config.registry import SECTIONS, Registry
from retina_otel.model.signals import BUILT_IN
from tests.docs.pages import REFERENCE, ROOT, headings


def components() -> list[Component]:
    registry = Registry.installed()
    return [registry.load(offer.kind, offer.type) for offer in registry.offers() if offer.built_in]


def section(component: Component) -> str:
    return f"{SECTIONS[component.kind]}.{component.type}"


@pytest.mark.parametrize("name", list(reference.pages()))
def test_reference_pages_are_current(name):
    assert (REFERENCE / name).read_text() == reference.pages()[name], "run `make docs`"


def test_the_signals_in_the_readme_are_those_of_the_model():
    done = subprocess.run([sys.executable, "tools/readme_signals.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, "run `make docs`"


def test_the_constants_are_the_names_of_the_model():
    done = subprocess.run([sys.executable, "tools/constants.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, "run `make docs`"


def test_the_metrics_for_retinas_users_are_those_of_the_model():
    done = subprocess.run([sys.executable, "tools/retina_users.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, "run `make docs`"


@pytest.mark.parametrize("component", components(), ids=section)
def test_every_component_has_a_heading_and_a_row_for_each_setting(component):
    text = (REFERENCE / "configuration.md").read_text()
    _, heading, rest = text.partition(f"## `{section(component)}`\n")
    assert heading, "no heading"
    table = rest.partition("\n## ")[0]
    rows = {key.partition(".")[0] for key in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)}
    assert rows == set(component.Settings.model_fields)


def test_every_signal_has_a_heading():
    written = set(headings(REFERENCE / "signals.md"))
    names = {f"`{signal.name}`" for signal in (*BUILT_IN, *OWN_METRICS)}
    assert sorted(names - written) == []


def test_every_command_has_a_heading():
    written = set(headings(REFERENCE / "command-line.md"))
    assert sorted({f"`retina-otel {name}`" for name in app.COMMANDS} - written) == []

"""The table for Retina's users names tests that there are, and examples are right."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

from retina_otel.kubernetes.metrics_configuration.objects import read
from retina_otel.kubernetes.metrics_configuration.status import desired_status
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "retina-users.md"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())


def test_each_row_of_the_examples_names_a_test() -> None:
    rows = PAGE.read_text().split("| Example |")[1].splitlines()[2:]
    table = [row for row in rows if row.startswith("|")]
    assert len(table) == len(NAMED)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_the_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_example_of_a_metrics_configuration_is_accepted() -> None:
    page = ROOT / "docs" / "how-to" / "choose-what-to-observe.md"
    documents = [yaml.safe_load(one.text) for one in blocks(page) if one.language == "yaml"]
    objects = [read(one) for one in documents if one.get("kind") == "MetricsConfiguration"]
    assert [one.state for one in desired_status(objects).values()] == ["Accepted"]

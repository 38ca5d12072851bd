"""The component that the documentation shows is the one that tests/unit runs in a real agent."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, Block, blocks

PACKAGE = ROOT / "tests" / "third_party"
TESTED = {
    "python": PACKAGE / "retina_otel_tally" / "receiver.py",
    "ini": PACKAGE / "pyproject.toml",
}
SHOWN = list(blocks(ROOT / "docs" / "how-to" / "write-a-component.md"))


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: f"line-{block.line}")
def test_what_is_shown_stands_in_the_tested_package(block: Block) -> None:
    assert block.text in TESTED[block.language].read_text()

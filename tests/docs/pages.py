"""Reads the documentation: pages, headings, code blocks, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `title` is set where the page tells the reader to save it under that name."""

    language: str
    title: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every page written by hand."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found += sorted(ROOT.glob("collector-config/*.md"))
    return [page for page in found if REFERENCE not in page.parents]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _FENCE.finditer(text):
        words = match["info"].split() or [""]
        options = dict(word.split("=", 1) for word in words[1:])
        line = text.count("\n", 0, match.start()) + 1
        yield Block(words[0], options.get("title", ""), match["text"], line)


def headings(page: Path) -> list[str]:
    outside = _FENCE.sub("", page.read_text())
    return re.findall(r"^#+ (.*)$", outside, re.MULTILINE)


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block: a line each, continued by a backslash at its end."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()

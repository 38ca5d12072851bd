"""Writes the table of signals in README.md from `retina_otel.model.signals`; `--check` compares.

Run by `make docs`; tests/docs checks that the table is current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from retina_otel.model.signals import BUILT_IN, Metric, Signal

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- signals: begin, written by `make docs` -->\n"
END = "<!-- signals: end -->\n"


def table() -> str:
    """The built-in signals as Markdown, in the order of their declaration."""
    lines = ["| signal | receiver | kind | unit | what it counts |", "|---|---|---|---|---|"]
    for signal in BUILT_IN:
        receiver = signal.scope.rpartition(".")[2]
        lines.append(f"| `{signal.name}` | {receiver} | {kind(signal)} | {signal.brief} |")
    return "\n".join(lines) + "\n"


def kind(signal: Signal) -> str:
    """Two cells: kind and unit."""
    if isinstance(signal, Metric):
        return f"{signal.kind.value} | `{signal.unit}`"
    return "event | "


def written(text: str) -> str:
    """`text` with the table between the marks made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README.name} has no marks for the table of signals")
    return before + begin + "\n" + table() + "\n" + end + after


def main() -> int:
    text = README.read_text()
    current = written(text)
    if "--check" in sys.argv[1:]:
        return int(text != current)
    README.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())

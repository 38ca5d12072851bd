"""Writes the table of Retina's metrics in docs/retina-users.md from `retina_otel.model.classic`;
`--check` compares.

Run by `make docs`; tests/docs checks that the table is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from retina_otel.model.classic import CLASSIC, DEFAULT_LABELS, PREFIX, RETINA_COMMIT, ClassicMetric

PAGE = Path(__file__).parents[1] / "docs" / "retina-users.md"
BEGIN = "<!-- classic: begin, written by `make docs` -->\n"
END = "<!-- classic: end -->\n"


def text() -> str:
    """The table in Markdown, and where its rows were read."""
    return "\n".join([*_lines(), ""])


def _lines() -> Iterator[str]:
    headings = (
        "Metric | Type | Labels | Made of | Retina's documents say else | Values here | Read in"
    )
    yield f"| {headings} |"
    yield "|---|---|---|---|---|---|---|"
    for row in CLASSIC:
        cells = (
            f"`{PREFIX}{row.name}`",
            "gauge",
            _labels(row),
            ", ".join(f"`{one.name}`" for one in row.of),
            row.documents,
            row.difference,
            ", ".join(f"`{one.rpartition('/')[2]}`" for one in row.file.split(", ")),
        )
        yield f"| {' | '.join(cells)} |"
    files = sorted({one for row in CLASSIC for one in row.file.split(", ")})
    yield ""
    yield (
        f"Read in Retina's source at `{RETINA_COMMIT}`: "
        + ", ".join(f"`{one}`" for one in files)
        + "; labels of ends in `pkg/module/metrics/types.go`, the prefix in "
        "`pkg/exporter/prometheusexporter.go`. Ends' labels unless a MetricsConfiguration chooses: "
        + ", ".join(f"`{one}`" for one in DEFAULT_LABELS)
        + "."
    )


def _labels(row: ClassicMetric) -> str:
    own = ", ".join(f"`{one}`" for one in row.labels)
    return f"{own}, those of the ends" if row.pod_level else own


def written(page: str) -> str:
    """The page with the current table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{text()}{END}{after}"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        return int(written(page) != page)
    PAGE.write_text(written(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

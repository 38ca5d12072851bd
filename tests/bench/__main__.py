"""Runs the benchmarks: `python -m tests.bench [packets|pipeline|exporters|agent|...]...`, by
default all. Ends with 1 if a figure is over its budget.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.bench.report import Report

PARTS = (
    "packets",
    "pipeline",
    "cardinality",
    "identity",
    "exporters",
    "agent",
    "kubernetes",
    "identity_service",
)


def main() -> int:
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        print(f"no benchmark {unknown[0]!r}: there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    report = Report()
    for part in wanted:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        importlib.import_module(f"tests.bench.{part}").measure(report)
    report.print()
    report.write(Path("build/bench.json"))
    print("written to build/bench.json")
    return 1 if report.over else 0


if __name__ == "__main__":
    sys.exit(main())

"""Figures of a benchmark beside their budgets, printed as a table and kept as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `spread` is (min, max) of the repeats."""

    group: str
    name: str
    value: float
    unit: str
    budget: float | None = None
    spread: tuple[float, float] | None = None
    how: str = ""

    @property
    def over(self) -> bool:
        return self.budget is not None and self.value > self.budget

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return ""
        return f"over by {self.value - self.budget:.3g}" if self.over else "ok"


@dataclass(slots=True)
class Report:
    figures: list[Figure] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether any figure is over its budget."""
        return any(figure.over for figure in self.figures)

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)

    def print(self) -> None:
        table = Table(title="retina-otel bench", title_justify="left")
        for column in ("group", "figure", "value", "min-max", "budget", ""):
            table.add_column(column, justify="right" if column in ("value", "budget") else "left")
        for figure in self.figures:
            spread = f"{figure.spread[0]:.3g}-{figure.spread[1]:.3g}" if figure.spread else ""
            table.add_row(
                figure.group,
                figure.name,
                f"{figure.value:.3g} {figure.unit}",
                spread,
                "" if figure.budget is None else f"{figure.budget:g} {figure.unit}",
                figure.verdict,
            )
        Console(width=120).print(table)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
        }
        figures = [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures]
        path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")

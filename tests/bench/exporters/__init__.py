"""What exporters cost: from published snapshots to a backend's answer, protocol by protocol.

Each module measures one; they share `load`, the series, and `backend`, a server of its own process
that answers and keeps nothing, so that its CPU is nobody's here.
"""

from __future__ import annotations

import importlib

from tests.bench.report import Report

PARTS = ("otlp", "scrape", "remote_write", "azure_monitor")


def measure(report: Report) -> None:
    """Adds the figures of every module in PARTS."""
    for part in PARTS:
        importlib.import_module(f"tests.bench.exporters.{part}").measure(report)

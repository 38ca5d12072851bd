"""Azure Monitor's own exporters, as ours makes them, start nothing that calls Microsoft by itself:
neither the statistics of the SDK nor its remote configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys

MAKE = """
import json, os, sys, threading
from azure.monitor.opentelemetry.exporter import AzureMonitorLogExporter, AzureMonitorMetricExporter
from retina_otel.exporters.azure_monitor import sdk
from retina_otel.exporters.azure_monitor.connection_string import parse

class Nowhere(sdk.Transport):
    def send(self, request, **options):
        raise ConnectionAbortedError

begun = []
start = threading.Thread.start
threading.Thread.start = lambda thread: (begun.append(thread.name), start(thread))[1]
if sys.argv[1] == "as they are":
    sdk._CALLS_NOBODY.clear()
key = "00000000-0000-4000-8000-000000000000"
target = parse(f"InstrumentationKey={key};IngestionEndpoint=http://127.0.0.1:9/", "")
for kind in (AzureMonitorMetricExporter, AzureMonitorLogExporter):
    sdk.quiet(kind, target, Nowhere())
print(json.dumps(begun), flush=True)
os._exit(0)
"""
CALLERS = {"ConfigurationWorker", "OtelPeriodicExportingMetricReader"}
"""Threads of the remote configuration, and of what reports statistics."""


def begun(how: str) -> set[str]:
    """Names of the threads that both exporters start when they are made, in a process of its own:
    what they start is started once in a process, and would go on. Its environment is nobody's
    who has made one before."""
    theirs = {k: v for k, v in os.environ.items() if not k.startswith("APPLICATIONINSIGHTS_")}
    done = subprocess.run(
        [sys.executable, "-c", MAKE, how],
        env=theirs,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout))


def test_nothing_is_started_that_calls_anybody() -> None:
    assert begun("as we make them") & CALLERS == set()


def test_they_would_start_it_if_they_were_let() -> None:
    """Else the names above are no longer theirs, and the other test shows nothing."""
    assert begun("as they are") & CALLERS == CALLERS

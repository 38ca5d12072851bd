"""Stands for Application Insights on loopback, to see what would be sent to it and paid for:

    python -m retina_otel.testing.application_insights --port 18080 --file items.jsonl

Takes any instrumentation key, and writes each item that comes as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from retina_otel.testing.application_insights import ApplicationInsights

_ANY_KEY = "00000000-0000-0000-0000-000000000000"


def main() -> None:
    parser = argparse.ArgumentParser(prog="application_insights")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--file", type=Path, default=Path("items.jsonl"))
    arguments = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with (
        arguments.file.open("w") as file,
        ApplicationInsights(key="", port=arguments.port) as azure,
    ):
        sys.stdout.write(
            f"started: InstrumentationKey={_ANY_KEY};IngestionEndpoint={azure.endpoint}\n"
        )
        sys.stdout.flush()
        written = 0
        while not ended.wait(0.1):
            items = azure.envelopes()
            file.writelines(f"{json.dumps(item)}\n" for item in items[written:])
            file.flush()
            written = len(items)


if __name__ == "__main__":
    main()

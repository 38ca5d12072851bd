"""An exporter in a process of its own, fed by commands, for a test that kills it at a point.

Commands are lines: `start`, `tick N`, `arm` (from now on block at the point given), `answered
N` (wait for so many events to be), `stop`. It says `ready`, `blocked` at the point, `answered`, and
its ledger, as JSON, when it has stopped.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from retina_otel.delivery.sharing import LaneEncoder
from retina_otel.delivery.spool.queue import Spool
from retina_otel.delivery.spool.segments import SegmentWriter
from retina_otel.encode.otlp.logs import LogsEncoder
from retina_otel.pipeline.events import BufferReader
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.readers import SnapshotReader
from retina_otel.testing.exporters import Bench, SystemClock
from tests.e2e.fault_kits import KITS
from tests.e2e.faults import Source

SETTINGS = {"interval": "50ms", "events_interval": "20ms"}
POINTS: dict[str, tuple[type, str]] = {
    "before-take": (BufferReader, "take"),
    "encoding": (LogsEncoder, "requests"),
    "before-append": (SegmentWriter, "append"),
    "after-append": (BufferReader, "acknowledge"),
    "before-send": (Spool, "oldest"),
    "after-answer": (Spool, "advance"),
}
"""By name, the call before which the process stops. From `after-append` on events are on the disk,
and a call counts only after that."""
OF_METRICS: dict[str, tuple[type, str]] = {
    "metrics-encoding": (LaneEncoder, "requests"),
    "metrics-after-answer": (SnapshotReader, "acknowledge"),
}
"""The same of metrics, which no disk keeps."""
ON_THE_DISK = ("after-append", "before-send", "after-answer")

armed, appended = threading.Event(), threading.Event()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def before(owner: type, name: str, do: Callable[[], None]) -> None:
    """Each call of a method does something first."""
    call: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        do()
        return call(*args, **kwargs)

    setattr(owner, name, wrapped)


def stop_at(point: str) -> None:
    """Once armed, whoever comes to the point stops there for good."""

    def trap() -> None:
        if armed.is_set() and (point not in ON_THE_DISK or appended.is_set()):
            say("blocked")
            time.sleep(1000)

    def note() -> None:
        if armed.is_set():
            appended.set()

    before(*{**POINTS, **OF_METRICS}[point], trap)
    before(SegmentWriter, "append", note)


def exported(ledger: Ledger) -> int:
    """Events that were sent, and answered."""
    counts = ledger.report().exports.get("events")
    return counts.exported if counts is not None else 0


def main() -> None:
    kit, port, directory, first, point = sys.argv[1:]
    if point:
        stop_at(point)
    sys.stdin.readline()  # start: until then others may own the directory
    clock = SystemClock()
    bench = Bench(clock)
    source = Source(clock, first_event=int(first))
    settings: dict[str, Any] = {**SETTINGS}
    if KITS[kit].has_events:
        settings["spool"] = {"directory": directory}
    make = KITS[kit].make(int(port), **settings)
    exporter = make(bench.context())
    exporter.start([source.accumulator.reader("child")], [source.buffer.reader("child")])
    say("ready")
    for line in sys.stdin:
        command, *words = line.split()
        if command == "tick":
            source.tick(int(words[0]), a=1)
        elif command == "arm":
            armed.set()
        elif command == "answered":
            # The backend has events before the exporter knows that it has.
            while exported(bench.ledger) < int(words[0]):
                time.sleep(0.01)
            say("answered")
        else:
            exporter.stop(bench.deadline_ns(10))
            report = bench.ledger.report()
            say(
                json.dumps(
                    {
                        "difference": report.difference,
                        "lost": report.lost,
                        "resumed": report.beside.get("events_resumed", 0),
                        "exported": {
                            unit: counts.exported for unit, counts in report.exports.items()
                        },
                    }
                )
            )
            return


if __name__ == "__main__":
    main()

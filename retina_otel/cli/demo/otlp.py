"""Sums of an OTLP file as the file exporter writes it: one request of OTLP/JSON a line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_NO_RECORDED_VALUE = 1


def last_sum(path: Path, metric: str, having: Collection[str] = ()) -> int:
    """The sum over a cumulative metric's series of the last value of each. With `having` only of
    those that have one of these attributes."""
    last: dict[str, int] = {}
    for request in _requests(path):
        for scope in _below(request, "resourceMetrics", "scopeMetrics"):
            for one in scope.get("metrics", ()):
                if one["name"] == metric:
                    for point in one["sum"]["dataPoints"]:
                        ended = point.get("flags", 0) & _NO_RECORDED_VALUE
                        if not ended and _has(point, having):
                            series = json.dumps(
                                [point.get("attributes"), point.get("startTimeUnixNano")],
                                sort_keys=True,
                            )
                            last[series] = int(point.get("asInt", 0))
    return sum(last.values())


def event_sum(path: Path, event: str, attribute: str, having: Collection[str] = ()) -> int:
    """The sum of an integer attribute over all events of one name; `having` as above."""
    total = 0
    for request in _requests(path):
        for scope in _below(request, "resourceLogs", "scopeLogs"):
            for record in scope.get("logRecords", ()):
                if record.get("eventName") == event and _has(record, having):
                    for pair in record.get("attributes", ()):
                        if pair["key"] == attribute:
                            total += int(pair["value"]["intValue"])
    return total


def _has(item: Any, wanted: Collection[str]) -> bool:
    return not wanted or any(pair["key"] in wanted for pair in item.get("attributes", ()))


def _requests(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _below(request: Any, outer: str, inner: str) -> Iterator[Any]:
    for resource in request.get(outer, ()):
        yield from resource.get(inner, ())

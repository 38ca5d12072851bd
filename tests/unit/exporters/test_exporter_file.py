"""file: whole lines of OTLP JSON, rotated; what a disk refuses is counted and written later."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from pydantic import ValidationError

from retina_otel.delivery.file import LineFile, Rotation
from retina_otel.delivery.outcome import Result
from retina_otel.errors import ConfigError
from retina_otel.exporters.file import FileExporter, FileSettings
from retina_otel.testing.exporters import NUMBER, WHO, Bench, ManualClock, Source
from retina_otel.testing.otlp import points_of, records_of

FAST = {"interval": "30ms", "flush_interval": "20ms"}


class Running:
    """An exporter with its source, started."""

    def __init__(self, path: Path, bench: Bench | None = None, **settings: Any) -> None:
        self.bench = bench or Bench(id="file")
        self.source = Source()
        chosen = FileSettings.model_validate({"path": path, **FAST, **settings})
        self.exporter = FileExporter(chosen, self.bench.context())
        self.exporter.start(
            [self.source.accumulator.reader("test")], [self.source.buffer.reader("test")]
        )

    def stop(self) -> None:
        self.exporter.stop(self.bench.deadline_ns(5))


def read(*paths: Path) -> tuple[dict[str, int], list[int]]:
    """The last value of each series and the numbers of all events, from files in this order."""
    metrics, logs = [], []
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            assert line.endswith(b"\n")
            content = json.loads(line)
            if "resourceMetrics" in content:
                metrics.append(json_format.ParseDict(content, ExportMetricsServiceRequest()))
            else:
                logs.append(json_format.ParseDict(content, ExportLogsServiceRequest()))
    sums = {p.attributes[WHO.name]: p.value for p in points_of(metrics)}
    return sums, [r.attributes[NUMBER.name] for r in records_of(logs)]  # type: ignore[return-value]


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_line_is_a_request_that_the_official_protobufs_read(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    running = Running(path)
    for _ in range(5):
        running.source.count(a=3, b=5)
        running.source.happen(7)
        time.sleep(0.04)
    running.stop()
    assert read(path) == (running.source.truth, list(range(35)))
    report = running.bench.ledger.report()
    assert (report.difference, dict(report.lost)) == (0, {})
    lines = path.read_bytes().splitlines(keepends=True)
    points, events = report.exports["points"], report.exports["events"]
    assert (events.exported, points.requests + events.requests) == (35, len(lines))
    assert points.request_bytes + events.request_bytes == sum(map(len, lines))


@pytest.mark.parametrize("append", [True, False])
def test_a_file_that_is_there_is_added_to_or_emptied(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "out.json"
    for _ in range(2):
        running = Running(path, append=append)
        running.source.happen(2)
        running.stop()
    assert read(path)[1] == ([0, 1, 0, 1] if append else [0, 1])


def test_what_an_agent_has_written_stays_when_a_reload_replaces_the_exporter(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.json"
    path.write_text("of an agent before\n")
    bench = Bench(id="file")
    for _ in range(2):
        running = Running(path, bench)
        running.source.happen(2)
        running.stop()
    assert read(path)[1] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/such/directory.json", "No such file"), (".", "Is a directory"), ("fifo", "named pipe")],
)
def test_a_path_that_can_not_be_written_is_one_clear_error_at_the_start(
    tmp_path: Path, name: str, reason: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=reason) as error:
        Running(tmp_path / name)
    assert "Set path to a file" in error.value.remedy


def test_append_and_rotation_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="leave append out"):
        FileSettings.model_validate({"path": tmp_path / "x", "append": True, "rotation": {}})


def test_a_full_file_is_renamed_and_no_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    clock = ManualClock()
    lines = [b"%04d" % i + b"x" * 95 + b"\n" for i in range(50)]
    file = LineFile(path, clock=clock, truncate=False, rotation=Rotation(1000, 3))
    for line in lines:
        assert file.write(line, 1.0).result is Result.ACCEPTED
        clock.advance(1)
    file.close()
    backups = sorted(tmp_path.glob("out-*.json"))
    assert [backup.stat().st_size for backup in (*backups, path)] == [1000] * 4
    assert b"".join(backup.read_bytes() for backup in (*backups, path)) == b"".join(lines[10:])


def test_files_renamed_in_the_same_millisecond_do_not_replace_each_other(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    file = LineFile(path, clock=ManualClock(), truncate=False, rotation=Rotation(10, 0))
    for number in range(20):
        file.write(b"line %03d\n" % number, 1.0)
    file.close()
    contents = [each.read_bytes() for each in (*sorted(tmp_path.glob("out-*.json")), path)]
    assert contents == [b"line %03d\n" % number for number in range(20)]


def test_backups_of_another_file_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "out-2026-notes.json"
    other.write_text("mine")
    file = LineFile(
        tmp_path / "out.json", clock=ManualClock(), truncate=False, rotation=Rotation(1, 1)
    )
    for _ in range(5):
        file.write(b"line\n", 1.0)
    file.close()
    assert other.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_others_may_not_read_a_file_that_is_made_here(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    before = os.umask(0)
    try:
        file = LineFile(path, clock=ManualClock(), truncate=False, rotation=Rotation(1, 0))
        for _ in range(2):
            file.write(b"line\n", 1.0)
        file.close()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()] == [0o640, 0o640]


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    file = LineFile(path, clock=ManualClock(), truncate=False)
    file.write(b"first\n", 1.0)
    path.rename(tmp_path / "moved.json")
    file.write(b"second\n", 1.0)
    file.close()
    assert (tmp_path / "moved.json").read_bytes() == b"first\n"
    assert path.read_bytes() == b"second\n"


@pytest.fixture
def small_files() -> Iterator[None]:
    """This process may write no file beyond 8,000 bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_line_that_does_not_fit_leaves_no_half_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    file = LineFile(path, clock=ManualClock(), truncate=False)
    assert file.write(b"x" * 6_999 + b"\n", 1.0).result is Result.ACCEPTED
    outcome = file.write(b"y" * 2_999 + b"\n", 1.0)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "disk_full")
    assert path.read_bytes() == b"x" * 6_999 + b"\n"
    assert file.write(b"z\n", 1.0).result is Result.ACCEPTED
    file.close()
    assert path.stat().st_size == 7_002


def test_a_full_disk_degrades_is_counted_and_loses_nothing(
    tmp_path: Path, small_files: None
) -> None:
    path = tmp_path / "out.json"
    running = Running(path)
    running.source.count(a=3)
    running.source.happen(25)
    wait_until(lambda: running.bench.ledger.report().exports["events"].exported == 25)
    running.source.happen(25)
    wait_until(lambda: running.bench.reasons)
    running.source.count(a=4)
    path.rename(tmp_path / "first.json")
    wait_until(lambda: running.bench.reasons[-1] == "")
    running.stop()
    assert "File too large" in running.bench.reasons[0]
    assert read(tmp_path / "first.json", path) == ({"a": 7}, list(range(50)))
    report = running.bench.ledger.report()
    assert (report.difference, dict(report.lost)) == (0, {})
    assert "disk_full" in report.exports["events"].request_failures

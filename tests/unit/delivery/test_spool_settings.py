"""What a person may write about a spool, what is said to one who errs, and how exporters end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.delivery.spool.settings import SpoolSettings
from retina_otel.errors import ConfigError
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.testing.exporters import Bench, Source
from retina_otel.testing.otlp import OtlpSink


def exporter(
    directory: Path, endpoint: str = "http://127.0.0.1:1"
) -> tuple[OtlpHttpExporter, Bench]:
    spool = {"directory": str(directory)}
    settings = OtlpHttpSettings.model_validate(
        {"endpoint": endpoint, "events_interval": "20ms", "timeout": "60s", "spool": spool}
    )
    bench = Bench()
    return OtlpHttpExporter(settings, bench.context(), {}), bench


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "directory"),
        ({"directory": "spool"}, "write the whole path, as /var/lib/retina-otel/spool"),
        ({"directory": "/spool", "max_bytes": "64KiB"}, "greater than or equal to 1048576"),
        ({"directory": "/spool", "max_age": "1 day"}, "is not a duration"),
        ({"directory": "/spool", "max_size": "1GiB"}, "max_size"),
    ],
)
def test_settings_that_can_not_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SpoolSettings.model_validate(settings)


def test_every_setting_is_described() -> None:
    for name, field in SpoolSettings.model_fields.items():
        assert field.description, name


def test_checking_a_configuration_makes_no_directory(tmp_path: Path) -> None:
    made, bench = exporter(tmp_path / "spool")
    made.stop(bench.deadline_ns(0))
    assert list(tmp_path.iterdir()) == []


def test_two_exporters_in_one_directory_are_one_clear_error_at_the_start(tmp_path: Path) -> None:
    source = Source()
    (first, bench), (second, other_bench) = exporter(tmp_path), exporter(tmp_path)
    first.start([], [source.buffer.reader("first")])
    with pytest.raises(ConfigError, match=f"{tmp_path} is in use by another exporter") as error:
        second.start([], [source.buffer.reader("second")])
    assert error.value.remedy == "Give each exporter a spool.directory of its own"
    second.stop(other_bench.deadline_ns(0))
    first.stop(bench.deadline_ns(0))


def test_an_exporter_without_events_needs_no_directory(tmp_path: Path) -> None:
    made, bench = exporter(tmp_path / "spool")
    made.start([Source().accumulator.reader("metrics")], [])
    made.stop(bench.deadline_ns(0))
    assert list(tmp_path.iterdir()) == []


def test_the_exporter_that_takes_over_at_a_reload_finds_what_the_one_before_left(
    tmp_path: Path,
) -> None:
    source = Source()
    first, bench = exporter(tmp_path)
    first.start([], [source.buffer.reader("first")])
    source.happen(30)
    first.stop(bench.deadline_ns(0.5))
    assert bench.ledger.report().not_ours == {"events_kept": 30}
    with OtlpSink() as sink:
        second, second_bench = exporter(tmp_path, sink.endpoint)
        second.start([], [Source().buffer.reader("second")])
        sink.wait_for(lambda: len(sink.records()) == 30, 10)
        second.stop(second_bench.deadline_ns(5))
        report = second_bench.ledger.report()
    assert (report.seen, report.drained, report.difference) == (30, 30, 0)
    assert report.beside["events_resumed"] == 30


def test_stopped_while_a_backend_hangs_all_events_are_on_the_disk(tmp_path: Path) -> None:
    source = Source()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made, bench = exporter(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        made.start([], [source.buffer.reader("events")])
        source.happen(20)
        silent.settimeout(10)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1) == b"P"
            # The exporter waits for an answer to the first; these are still in memory.
            source.happen(30)
            made.stop(bench.deadline_ns(0.5))
    report = bench.ledger.report()
    assert (report.not_ours, report.lost) == ({"events_kept": 50}, {})
    assert (report.seen, report.held, report.difference) == (50, 0, 0)
    after = SpoolSettings(directory=tmp_path).place("otlp-logs").open(bench.clock, print)
    assert after.resumed == 50
    after.close()

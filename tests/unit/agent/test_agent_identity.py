"""Who the agent says it is, when it says things happened, and how it logs."""

from __future__ import annotations

import io
import json
import logging
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel import __version__
from retina_otel.agent import logs
from retina_otel.agent.clock import SystemClock
from retina_otel.agent.resource import detect, disabled, own_usage, parse_attributes
from retina_otel.config.settings import LogEncoding, LogLevel, LogsSettings


def test_resource_says_who_and_where(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef\n")
    resource = detect({"K8S_NODE_NAME": "node-a"}, root=tmp_path)
    assert resource["service.name"] == "retina-otel"
    assert resource["service.version"] == __version__
    assert resource["host.id"] == "0123456789abcdef"
    assert resource["k8s.node.name"] == "node-a"
    assert resource["os.type"] == "linux"
    assert resource["host.arch"] in ("amd64", "arm64")
    assert resource["telemetry.distro.name"] == "retina-otel"


def test_instance_id_is_of_the_node_and_survives_a_rollout(tmp_path: Path) -> None:
    def instance(**environment: str) -> str:
        return str(detect(environment, root=tmp_path)["service.instance.id"])

    one = instance(K8S_NODE_UID="u-1", K8S_NODE_NAME="node-a")
    assert uuid.UUID(one).version == 5
    assert instance(K8S_NODE_UID="u-1", K8S_NODE_NAME="renamed") == one
    assert instance(K8S_NODE_UID="u-2", K8S_NODE_NAME="node-a") != one
    assert instance(K8S_NODE_UID="u-1", OTEL_SERVICE_NAME="other") != one
    assert instance(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=mine") == "mine"


def test_otel_variables_win_over_what_is_detected_and_configuration_over_both() -> None:
    environment = {
        "OTEL_RESOURCE_ATTRIBUTES": (
            "service.name=a,deployment.environment.name=pre%20prod,host.name=h"
        ),
        "OTEL_SERVICE_NAME": "b",
    }
    resource = detect(environment, {"host.name": "configured"})
    assert resource["service.name"] == "b"
    assert resource["deployment.environment.name"] == "pre prod"
    assert resource["host.name"] == "configured"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", {}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a = 1 ,, junk, =x, b=", {"a": "1", "b": ""}),
        ("a=x%2Cy%3Dz", {"a": "x,y=z"}),
    ],
)
def test_attributes_of_the_environment(text: str, read: dict[str, str]) -> None:
    assert parse_attributes(text) == read


def test_only_the_word_true_disables() -> None:
    assert disabled({"OTEL_SDK_DISABLED": "True "})
    assert not disabled({"OTEL_SDK_DISABLED": "1"})
    assert not disabled({})


def test_own_usage_is_read_from_the_kernel() -> None:
    user, system, resident = own_usage()
    assert user > 0
    assert system >= 0
    assert resident > 10_000_000


def test_offset_turns_monotonic_stamps_into_wall_time() -> None:
    clock = SystemClock()
    before = clock.wall_ns()
    stamp = clock.monotonic_ns() + clock.estimate()
    after = clock.wall_ns()
    # An estimate is as good as its bracket: microseconds, but a busy machine may stretch one.
    assert before - 100_000_000 <= stamp <= after + 100_000_000


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    root = logging.getLogger(logs.ROOT)
    before = (root.handlers[:], root.level, root.propagate)
    yield logs.logger_for("receiver", "flows")
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_console_log_is_one_line_without_colours(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.set_up(LogsSettings(), stream)
    log.info("attached to %d interfaces", 3)
    log.debug("not shown")
    [line] = stream.getvalue().splitlines()
    assert line[12:] == " info  receiver.flows  attached to 3 interfaces"


def test_json_log_is_an_object_a_line(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.set_up(LogsSettings(level=LogLevel.WARN, encoding=LogEncoding.JSON), stream)
    log.info("not shown")
    try:
        raise ValueError("x\ny")
    except ValueError:
        log.warning("two\nlines", exc_info=sys.exc_info())
    [line] = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["severity"], record["scope"]) == ("warn", "retina_otel.receiver.flows")
    assert record["body"] == "two\nlines"
    assert "ValueError: x\ny" in record["exception.stacktrace"]
    assert record["timestamp"].endswith("Z")

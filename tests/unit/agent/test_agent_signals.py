"""The command `agent` as a process: signals, exit codes, a line for each way it can't start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.agent.agent import GRACE_S
from tests.unit.agent.agent_parts import until

CONFIG = """
extensions: {{health_check: {{endpoint: "127.0.0.1:{health}"}}}}
receivers: {{interfaces: {{}}}}
exporters: {{file: {{path: {out}, interval: {interval}}}}}
service:
  interval: 100ms
  extensions: [health_check]
  telemetry: {{logs: {{encoding: json}}, metrics: {{interval: 100ms}}}}
  pipelines: {{metrics: {{receivers: [interfaces], exporters: [file]}}}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A running agent with its log and health endpoint."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.config = folder / "agent.yaml"
        self.out = folder / "out.jsonl"
        self.log_path = folder / "log"
        self.write(interval="100ms")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "retina_otel", "agent", "--config", str(self.config)],
                stderr=log,
                stdout=log,
            )

    def write(self, interval: str) -> None:
        text = CONFIG.format(health=self.port, out=self.out, interval=interval)
        self.config.write_text(text)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            assert self.process.poll() is None, self.log_path.read_text()
            return {"status": "away"}

    def wait_ready(self) -> None:
        until(lambda: self.health()["status"] == "ready", "the health endpoint")

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        """The newest values of a metric in the file, by the values of its attributes."""
        values = {}
        # The file may be written to just now: what has no end yet is no line.
        for line in self.out.read_text().rpartition("\n")[0].splitlines():
            for resource in json.loads(line).get("resourceMetrics", []):
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        if metric["name"] == name:
                            data = metric.get("sum") or metric["gauge"]
                            for point in data["dataPoints"]:
                                key = tuple(a["value"]["stringValue"] for a in point["attributes"])
                                values[key] = float(point.get("asInt", point.get("asDouble")))
        return values


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    try:
        process.wait_ready()
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_and_writes_what_is_left(agent: Process, number: signal.Signals) -> None:
    agent.process.send_signal(number)
    assert agent.process.wait(10) == 0
    said = [line["body"] for line in agent.log()]
    assert said[1:2] == ["started: interfaces"]
    assert said[-2:] == [f"stopping ({number.name})", "stopped"]
    assert agent.metric("retina.component.status")["interfaces", "receiver", "running"] == 1


def test_hangup_reads_the_file_again(agent: Process) -> None:
    agent.write(interval="200ms")
    agent.process.send_signal(signal.SIGHUP)
    until(
        lambda: agent.metric("retina.config.reloads") == {("applied",): 1.0, ("refused",): 0.0},
        "the reload",
    )
    assert agent.health()["status"] == "ready"
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(10) == 0


def test_hangup_with_an_invalid_file_leaves_the_old_configuration(agent: Process) -> None:
    agent.config.write_text(agent.config.read_text().replace("interfaces:", "interface:"))
    agent.process.send_signal(signal.SIGHUP)
    until(
        lambda: agent.metric("retina.config.reloads") == {("applied",): 0.0, ("refused",): 1.0},
        "the refusal",
    )
    assert agent.health()["components"]["receivers"]["interfaces"]["state"] == "running"
    [error] = [line for line in agent.log() if line["severity"] == "error"]
    assert error["body"] == (
        f"the old configuration goes on: receivers.interface: there is no receiver of type "
        f"'interface' ({agent.config}:3). Did you mean 'interfaces'?"
    )


def test_health_endpoint_tells_components_and_ledgers(agent: Process) -> None:
    health = agent.health()
    assert health["components"]["exporters"]["file"]["state"] == "running"
    assert health["ledgers"]["pipeline/metrics"]["difference"] == 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{agent.port}/nowhere", timeout=5)


def test_the_command_cardinality_asks_the_agent(agent: Process) -> None:
    done = run("cardinality", "--endpoint", f"127.0.0.1:{agent.port}", "--json")
    [status] = [
        metric
        for metric in json.loads(done.stdout)["pipelines"]["own"]
        if metric["metric"] == "retina.component.status"
    ]
    costs = {one["name"]: (one["values"], one["series_without"]) for one in status["attributes"]}
    assert status["series"] == 15  # of three components the five states
    assert costs == {
        "retina.component.kind": (3, 15),
        "retina.component.id": (3, 15),
        "retina.component.state": (5, 3),
    }


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "retina_otel", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says what is wrong, which must be the only one of its kind."""
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def test_port_in_use_is_one_line_and_ends_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "agent.yaml"
        config.write_text(CONFIG.format(health=port, out=tmp_path / "out", interval="1s"))
        done = run("agent", "--config", str(config))
    assert done.returncode == 3
    assert one_line(done) == (
        f"error: 127.0.0.1:{port} can't be listened on: Address already in use. Stop what listens "
        "there (`ss -ltnp` names it), or set another endpoint: extensions.health_check.endpoint"
    )


def test_invalid_configuration_is_a_line_for_each_problem(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    text = CONFIG.format(health=1, out=tmp_path / "out", interval="soon")
    config.write_text(text.replace("extensions: [health", "extension: [health"))
    done = run("agent", "--config", str(config))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("error: exporters.file.interval: 'soon' given")
    assert lines[1].startswith("error: service.extension: unknown key")


def test_missing_variable_and_file_are_one_line(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("receivers: {interfaces: {exclude: '${env:NO_SUCH_VARIABLE}'}}\n")
    done = run("agent", "--config", str(config))
    assert (done.returncode, "environment variable NO_SUCH_VARIABLE" in one_line(done)) == (3, True)
    done = run("agent", "--config", str(tmp_path / "nowhere.yaml"))
    assert (done.returncode, "no such file" in one_line(done)) == (3, True)


@pytest.mark.root
def test_without_capabilities_one_line_names_the_remedy(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        "receivers: {drops: {}}\n"
        "exporters: {debug: {}}\n"
        "service: {pipelines: {metrics: {receivers: [drops], exporters: [debug]}}}\n"
    )
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"),
            *(sys.executable, "-m", "retina_otel", "agent", "--config", str(config)),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    line = one_line(done)
    assert line.startswith("error: no receiver can run: drops: ")
    assert "EPERM" in line
    assert "CAP_BPF" in line


@pytest.fixture
def hanging(agent: Process) -> Iterator[Process]:
    """An agent that sends to a backend which never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        text = agent.config.read_text().replace(
            "exporters: {file:", f'exporters: {{otlp_http: {{endpoint: "{endpoint}"}}, file:'
        )
        agent.config.write_text(text.replace("exporters: [file]", "exporters: [otlp_http, file]"))
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: "otlp_http" in agent.health()["components"]["exporters"], "the reload")
        yield agent


def test_a_backend_that_does_not_answer_does_not_hold_the_end(hanging: Process) -> None:
    hanging.process.send_signal(signal.SIGTERM)
    assert hanging.process.wait(GRACE_S + 1) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(
    hanging: Process, first: signal.Signals, second: signal.Signals, code: int
) -> None:
    def said() -> list[str]:
        return [line["body"] for line in hanging.log()]

    hanging.process.send_signal(first)
    until(lambda: f"stopping ({first.name})" in said(), "the begin of the end")
    hanging.process.send_signal(second)
    assert hanging.process.wait(GRACE_S + 1) == code
    assert said()[-1] == f"stopped at once ({second.name} again): what was not sent yet is lost"
    assert "stopped" not in said()

"""A receiver and an exporter of another package, installed as usual, run in a real agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

THIRD_PARTY = Path(__file__).parents[2] / "third_party"
COUNTS = [3, 5, 7, 11]
CONFIG = """
receivers:
  tally: {{counts: {counts}, colour: blue}}
exporters:
  lines: {{path: {path}, interval: 100ms}}
service:
  interval: 100ms
  pipelines:
    metrics: {{receivers: [tally], exporters: [lines]}}
    logs: {{receivers: [tally], exporters: [lines]}}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)),
            str(THIRD_PARTY),
        ],
        check=True,
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
    )
    return {**os.environ, "PYTHONPATH": str(target)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "retina_otel", *arguments]


def test_it_is_listed_with_its_package(environment: dict[str, str]) -> None:
    listed = subprocess.run(
        command("components", "--json"), env=environment, check=True, capture_output=True
    )
    rows = {(row["kind"], row["type"]): row for row in json.loads(listed.stdout)}
    receiver = rows["receiver", "tally"]
    assert (receiver["package"], receiver["version"]) == ("retina-otel-tally", "1.2.3")
    assert (receiver["signals"], receiver["error"]) == (["metrics", "logs"], "")
    assert rows["exporter", "lines"]["stability"] == "development"
    assert rows["receiver", "flows"]["package"] == "retina-otel"


def test_it_runs_and_every_count_arrives(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = tmp_path / "agent.yaml"
    config.write_text(CONFIG.format(counts=COUNTS, path=out))
    agent = subprocess.Popen(
        command("agent", "--config", str(config)),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not _points(out, "tally.counted") or _points(out, "tally.counted")[-1] != sum(COUNTS):
            assert time.monotonic() < deadline
            assert agent.poll() is None, agent.stderr and agent.stderr.read()
            time.sleep(0.05)
        agent.send_signal(signal.SIGTERM)
        _, log = agent.communicate(timeout=10)
    finally:
        if agent.poll() is None:
            agent.kill()
            agent.wait()
    assert agent.returncode == 0
    assert "error" not in log
    assert "receiver.tally  counting 4 numbers" in log
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    counted = [line for line in lines if line.get("metric") == "tally.counted"]
    assert counted[0]["value"] == 0, "a zero point comes before a new series"
    values = [line["value"] for line in counted]
    assert values == sorted(values)
    assert values[-1] == sum(COUNTS)
    assert {line["start"] for line in counted} == {counted[0]["start"]}
    assert all(line["attributes"] == {"tally.colour": "blue"} for line in counted)
    assert len([line for line in lines if line.get("event") == "tally.seen"]) == len(COUNTS)
    books = {
        line["attributes"]["retina.ledger.account"]: line["value"]
        for line in lines
        if line.get("metric") == "retina.ledger.count"
        and line["attributes"]["retina.ledger.name"] == "receiver/tally"
    }
    assert books == {"seen": 26, "drained": 26, "filtered": 0, "sampled": 0}


def _points(path: Path, metric: str) -> list[int]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [line["value"] for line in lines if line.get("metric") == metric]

"""An exporter's process is killed at each stage of an export; another one goes on from its spool.

At least once: what was on the disk is sent, once more where only the answer was missing. What was
not yet on the disk is lost with the process, as all that is in memory: at most `events_interval`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fault_child import OF_METRICS, ON_THE_DISK, POINTS
from tests.e2e.fault_kit import Kit
from tests.e2e.fault_kits import KITS
from tests.e2e.faults import relay_to

ROOT = Path(__file__).parents[2]
TWICE = {"after-answer"}


class Child:
    """A process of `fault_child`."""

    def __init__(
        self, kit: Kit, port: int, directory: Path, first: int = 0, point: str = ""
    ) -> None:
        _BEGUN.append(self)
        arguments = [kit.name, str(port), str(directory), str(first), point]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.fault_child", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> None:
        """Returns when it has begun; what it had to import it has imported meanwhile."""
        self.do("start")
        assert self.says() == "ready"

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, *commands: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{command}\n" for command in commands))
        self.process.stdin.flush()

    def killed(self) -> None:
        """Returns when it is dead by SIGKILL."""
        self.process.kill()
        with self.process:
            assert self.process.wait(20) == -signal.SIGKILL

    def stop(self) -> dict[str, Any]:
        self.do("stop")
        ledger: dict[str, Any] = json.loads(self.says())
        with self.process:
            assert self.process.wait(20) == 0
        return ledger


_BEGUN: list[Child] = []


@pytest.fixture(params=[name for name, kit in KITS.items() if kit.cumulative])
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    kit = KITS[request.param]()
    yield kit
    while _BEGUN:
        with _BEGUN.pop().process as process:
            process.kill()
    kit.close()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kit", ["otlp_http", "otlp_grpc"], indirect=True)
def test_killed_at_a_point_what_was_on_the_disk_is_sent(
    kit: Kit, tmp_path: Path, point: str
) -> None:
    first, second = (Child(kit, kit.port, tmp_path, *rest) for rest in ((0, point), (200, "")))
    first.start()
    first.do("tick 100")
    kit.wait_for(lambda: kit.numbers() == [*range(100)] and kit.sums() == {"a": 1})
    first.do("arm", "tick 100")
    assert first.says() == "blocked"
    first.killed()
    second.start()
    second.do("tick 100", "tick 0")
    ledger = second.stop()
    again = [*range(100, 200)] if point in ON_THE_DISK else []
    before = [*range(100, 200)] if point in TWICE else []
    assert kit.numbers() == [*range(100), *before, *again, *range(200, 300)]
    assert (ledger["difference"], ledger["lost"]) == (0, {})
    assert (ledger["resumed"], ledger["exported"]["events"]) == (len(again), 100 + len(again))
    assert kit.sums() == {"a": 2}
    assert kit.faults() == []


@pytest.mark.parametrize("kit", ["otlp_http", "otlp_grpc"], indirect=True)
def test_killed_in_the_middle_of_a_request_it_is_sent_again(kit: Kit, tmp_path: Path) -> None:
    with relay_to(kit.port) as relay:
        first = Child(kit, relay.port, tmp_path)
        second = Child(kit, kit.port, tmp_path, first=1100)
        first.start()
        relay.at_cut = first.killed
        first.do("tick 100")
        kit.wait_for(lambda: kit.numbers() == [*range(100)] and kit.sums() == {"a": 1})
        first.do("answered 100")
        assert first.says() == "answered"
        relay.cut_after = 20_000
        relay.reset()
        first.do("tick 1000")
        first.process.wait(20)
    second.start()
    second.do("tick 100")
    ledger = second.stop()
    assert kit.numbers() == list(range(1200))
    assert (ledger["resumed"], ledger["lost"]) == (1000, {})
    assert kit.faults() == []


@pytest.mark.parametrize("point", OF_METRICS)
def test_killed_while_metrics_are_sent_sums_are_those_of_the_process_that_goes_on(
    kit: Kit, tmp_path: Path, point: str
) -> None:
    first, second = (Child(kit, kit.port, tmp_path, 0, each) for each in (point, ""))
    first.start()
    first.do("tick 0")
    kit.wait_for(lambda: kit.sums() == {"a": 1})
    first.do("arm", "tick 0")
    assert first.says() == "blocked"
    first.killed()
    before = kit.items("points", accepted=True)
    second.start()
    second.do(*["tick 0"] * 3)
    ledger = second.stop()
    assert kit.sums() == {"a": 3}
    assert kit.faults() == []
    assert ledger["exported"]["points"] == kit.items("points", accepted=True) - before

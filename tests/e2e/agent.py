"""The agent as a process, as a person would run it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.scrape import fetch

START_SECONDS = 30
STOP_SECONDS = 15
READY = " started: "
COMMAND = str(Path(sys.executable).with_name("retina-otel"))


class Agent:
    """`retina-otel agent --config ...` in a namespace; `around` is a command that runs it, in its
    own place, as setpriv does."""

    def __init__(self, namespace: Namespace, config: Path, around: Sequence[str] = ()) -> None:
        self._namespace = namespace
        self._config = config
        self._around = around
        self._log_path = config.with_name("agent.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the agent says that it is ready."""
        with self._log_path.open("wb") as log:
            self._process = self._namespace.popen(
                [*self._around, COMMAND, "agent", "--config", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while READY not in self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the agent is not ready:\n{self.log()}")
            time.sleep(0.05)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running agent itself, not what started it."""
        assert self._process is not None
        return self._process

    def stop(self) -> int:
        """SIGTERM; the exit code. May be called again."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.terminate()
        return process.wait(timeout=STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self.process, None
        process.kill()
        process.wait(timeout=STOP_SECONDS)

    def log(self) -> str:
        return self._log_path.read_text()

    def health(self, port: int) -> dict[str, Any]:
        """What its health endpoint says, on the loopback of its namespace; it must be ready."""
        found: dict[str, Any] = json.loads(fetch(self._namespace, "127.0.0.1", port, "/"))
        return found


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Fails if it does not hold in time; `what` is said then."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"in {seconds} s there was not {what}"
        time.sleep(0.05)

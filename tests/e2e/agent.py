"""The agent as a process, as a person would run it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from retina_otel.testing.namespaces import Namespace

START_SECONDS = 30
STOP_SECONDS = 15
READY = " up: "


class Agent:
    """`retina-otel agent --config ...` in a namespace."""

    def __init__(self, namespace: Namespace, config: Path) -> None:
        self._namespace = namespace
        self._config = config
        self._log_path = config.with_name("agent.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the agent says that it is ready."""
        command = str(Path(sys.executable).with_name("retina-otel"))
        with self._log_path.open("wb") as log:
            self._process = self._namespace.popen(
                [command, "agent", "--config", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while READY not in self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the agent is not ready:\n{self.log()}")
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM; the exit code. May be called again."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.terminate()
        return process.wait(timeout=STOP_SECONDS)

    def log(self) -> str:
        return self._log_path.read_text()

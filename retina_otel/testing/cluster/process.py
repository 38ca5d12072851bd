"""The cluster's own processes: each with a log file, all in one cgroup.

They end with the cgroup of their lab, so none outlives it, whoever was killed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from retina_otel.errors import RetinaError
from retina_otel.testing import cgroups

TAIL_LINES = 25
STOP_SECONDS = 15


class Process:
    """A program that may be started, stopped and started again; its log goes on in one file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, groups: Sequence[Path]) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._groups = [str(group / "cgroup.procs") for group in groups]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process. Raises RetinaError if there is none."""
        if self._process is None:
            raise RetinaError(f"{self.name} does not run")
        return self._process.pid

    def start(self, pass_fds: Sequence[int] = ()) -> None:
        """Starts it in its cgroups. Does not wait until it is ready."""
        # The shell enters the groups before it becomes the program: none of its children escapes.
        enter = 'until [ "$1" = -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-ec", enter, "sh", *self._groups, "--", *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends it properly: SIGTERM, then SIGKILL if it takes too long."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def require_running(self) -> None:
        """Raises RetinaError with the end of the log if it ended by itself."""
        if not self.running:
            raise RetinaError(f"{self.name} ended:\n{self.tail()}")

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Processes:
    """Starts the processes of one lab; `folder` takes their logs."""

    def __init__(self, tag: str, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._groups = cgroups.create(tag, "system")
        self._all: list[Process] = []

    def add(self, name: str, argv: Sequence[str]) -> Process:
        """A process of this lab, not yet started."""
        process = Process(name, argv, self.folder / f"{name}.log", self._groups)
        self._all.append(process)
        return process

    def reap(self) -> None:
        """Takes notice of the end of all of them, which were killed by their cgroup."""
        for process in self._all:
            process.kill()

    def tails(self) -> str:
        """The ends of all logs, for a failure's report."""
        return "\n".join(f"--- {each.name}\n{each.tail()}" for each in self._all)

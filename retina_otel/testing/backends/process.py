"""A backend as a process on loopback: started, asked until it is ready, ended with its owner.

It listens on free ports of 127.0.0.1, of this machine or of a namespace of a lab, and keeps all it
writes in one folder of its owner's. It dies with the thread that started it, also after a kill of
the process: no reaper is needed, and no root.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from retina_otel.errors import RetinaError
from retina_otel.testing.namespaces import Namespace

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
START_SECONDS = 30
STOP_SECONDS = 20
TAIL_LINES = 25


class Backend:
    """One server, to be used as a context manager; it may also be stopped and started again.

    `folder` must exist. With `namespace` the server listens on the loopback of that network
    namespace, and is asked from within it.
    """

    name: str
    _argv: Sequence[str]
    _environment: Mapping[str, str]

    def __init__(self, folder: Path, namespace: Namespace | None = None) -> None:
        self.folder = folder
        self._namespace = namespace
        self._environment = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it answers that it is ready. Raises RetinaError with its log if it does
        not."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Starts it and does not wait."""
        # Both of these become the server in place: its pid is the one we end.
        around = ["setpriv", "--pdeathsig", "KILL", "--"]
        if self._namespace is not None:
            around = ["nsenter", f"--net={self._namespace.path}", "--", *around]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*around, *self._argv],
                env=os.environ | self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """What `start` does after `launch`."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RetinaError(f"{self.name} is not ready:\n{self.tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it properly: SIGTERM, then SIGKILL if it takes too long. May be called again."""
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

    @property
    def pid(self) -> int:
        """Of the running server. Raises RetinaError if it does not run."""
        if self._process is None:
            raise RetinaError(f"{self.name} does not run")
        return self._process.pid

    def log(self) -> str:
        """All that it has said, over all its starts."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log().splitlines()[-TAIL_LINES:])

    def request(
        self,
        port: int,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of the answer to one HTTP request. Raises OSError or HTTPException if
        there is none."""

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
            try:
                connection.request(method, path, body, dict(headers or {}))
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return self._within(ask)

    @property
    def _log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _ready(self) -> bool:
        raise NotImplementedError

    def _answers(self, port: int, path: str) -> bool:
        """Whether it answers with 200."""
        try:
            return self.request(port, "GET", path)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _sleeps(self) -> bool:
        """Whether none of its threads has anything to do at this moment."""
        assert self._process is not None
        states = []
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                states.append(task.read_text().rpartition(")")[2].split()[0])
        return bool(states) and set(states) == {"S"}

    def _within(self, function: Callable[[], T]) -> T:
        return function() if self._namespace is None else self._namespace.call(function)

    def _free_ports(self, n: int) -> list[int]:
        return self._within(lambda: free_ports(n))


@contextmanager
def running(*backends: Backend) -> Iterator[None]:
    """Starts them all at once, and stops them in order: senders stand before receivers."""
    try:
        for backend in backends:
            backend.launch()
        for backend in backends:
            backend.wait_ready()
        yield
    finally:
        for backend in backends:
            backend.stop()


def free_ports(n: int) -> list[int]:
    """`n` TCP ports of 127.0.0.1 that were free a moment ago."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(n)]
    ports: list[int] = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports

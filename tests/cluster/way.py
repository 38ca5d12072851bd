"""A way to an API server out of another network namespace, on which the answers may come late.

Every byte arrives, in its order. So what a watch tells comes as late as from a real one behind a
slow network or a busy API server, and the API server itself knows nothing of it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.namespaces import Namespace

_CHUNK = 1 << 18


class Way:
    """Listens on the loopback of `namespace`, and goes on to the control plane's."""

    def __init__(self, namespace: Namespace, control_plane: ControlPlane, seed: int = 1) -> None:
        self._port = int(control_plane.url.rpartition(":")[2])
        self._random = random.Random(seed)
        self._listener = namespace.call(lambda: socket.create_server(("127.0.0.1", 0)))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._closed = False
        self.late_s = 0.0
        """Answers are held for a random part of this, again and again."""
        self.latest_s = 0.0
        """For how long any answer was held."""
        self.arrivals: list[float] = []
        """When connections were asked for, by time.monotonic."""

    def kubeconfig(self, of: Path, path: Path) -> Path:
        """Writes a kubeconfig to `path` that takes this way."""
        config = yaml.safe_load(of.read_text())
        port = self._listener.getsockname()[1]
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        path.write_text(yaml.safe_dump(config))
        return path

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody gets through: connections end, and new ones are refused."""
        self._closed = True
        self._end_all()
        try:
            yield
        finally:
            self._closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.arrivals.append(time.monotonic())
            try:
                if self._closed:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                # A reset, as from a machine on which nothing listens.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, *[0] * 7]))
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for copy, one, other in ((self._at_once, near, far), (self._late, far, near)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()

    def _at_once(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := near.recv(_CHUNK):
                far.sendall(chunk)
        self._end(near, far)

    def _late(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while far.recv(1, socket.MSG_PEEK):
                # What comes meanwhile is less late, and goes with it.
                since = time.monotonic()
                self._over.wait(self._random.uniform(0, self.late_s))
                with contextlib.suppress(BlockingIOError):
                    while chunk := far.recv(_CHUNK, socket.MSG_DONTWAIT):
                        near.sendall(chunk)
                self.latest_s = max(self.latest_s, time.monotonic() - since)
        self._end(near, far)

    def _end(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for each in sockets:
                if each in self._open:
                    self._open.discard(each)
                    each.close()

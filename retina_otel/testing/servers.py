"""What answers inside a lab: each a context manager with one thread, and a count of what came.

A server's socket belongs to its namespace, its thread to this process. `TcpServer` speaks the
protocol of `traffic.tcp`: a request is eight bytes (its whole length, the length of the wanted
answer; both big-endian) and filling, the answer is filling.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from retina_otel.errors import RetinaError
from retina_otel.testing.namespaces import Namespace

REQUEST = struct.Struct("!II")
_FILLING = bytes(1 << 16)


class _Server:
    """A listening socket and the thread that serves it until the end of the `with` block."""

    def __init__(self, namespace: Namespace, address: str, port: int, kind: int) -> None:
        self.address, self.port = address, port
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = namespace.socket(family, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self._changed = threading.Condition()
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"lab-{port}", daemon=True)

    @property
    def to(self) -> tuple[str, int]:
        """Where to send."""
        return self.address, self.port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._wake_write.send(b"x")
        self._thread.join()
        for each in (self._socket, self._wake_read, self._wake_write):
            each.close()

    def _serve(self) -> None:
        raise NotImplementedError


class UdpServer(_Server):
    """Takes datagrams, and answers each with `answer(datagram)` unless that is empty or None is
    given.

    Its receive buffer holds some 20,000 small datagrams, so that a burst is not dropped.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        answer: Callable[[bytes], bytes] | None = None,
    ) -> None:
        super().__init__(namespace, address, port, socket.SOCK_DGRAM)
        # SO_RCVBUFFORCE, which net.core.rmem_max does not bound.
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
        self._answer = answer
        self.packets = 0
        self.payload = 0

    def wait_for(self, packets: int, timeout_s: float = 10) -> None:
        """Returns when this many datagrams have come in all. Raises RetinaError when they have
        not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.packets >= packets, timeout_s):
                raise RetinaError(
                    f"{self.packets} of {packets} datagrams came to {self.address}:{self.port}"
                )

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            self._socket.setblocking(False)
            while not any(key.fileobj is self._wake_read for key, _ in selector.select()):
                self._drain()

    def _drain(self) -> None:
        packets = payload = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram, sender = self._socket.recvfrom(65535)
                packets, payload = packets + 1, payload + len(datagram)
                if self._answer and (answer := self._answer(datagram)):
                    self._socket.sendto(answer, sender)
        with self._changed:
            self.packets += packets
            self.payload += payload
            self._changed.notify_all()


class TcpServer(_Server):
    """Answers requests of `traffic.tcp`, one connection after another or many at once.

    `delay_s` is waited before each answer. `read_pause_s` is waited after each 4 KiB read, with a
    small receive buffer: a slow reader, whose window closes.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        *,
        delay_s: float = 0,
        read_pause_s: float = 0,
    ) -> None:
        super().__init__(namespace, address, port, socket.SOCK_STREAM)
        if read_pause_s:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self._delay_s = delay_s
        self._read_pause_s = read_pause_s
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.requests = 0
        self.retransmitted = 0
        """Segments sent again on connections that have ended; what they held is in no tally."""
        self._socket.listen(1024)

    def close(self) -> None:
        super().close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not any(key.fileobj is self._wake_read for key, _ in selector.select()):
                connection, _ = self._socket.accept()
                with self._changed:
                    self._connections.add(connection)
                thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
                self._threads = [each for each in self._threads if each.is_alive()] + [thread]
                thread.start()

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), connection:
            while self._answer_one(connection):
                with self._changed:
                    self.requests += 1
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            with self._changed:
                self.retransmitted += struct.unpack_from("I", info, 100)[0]
        with self._changed:
            self._connections.discard(connection)

    def _answer_one(self, connection: socket.socket) -> bool:
        head = connection.recv(REQUEST.size, socket.MSG_WAITALL)
        if len(head) < REQUEST.size:
            return False
        length, wanted = REQUEST.unpack(head)
        left = length - REQUEST.size
        while left > 0:
            got = len(connection.recv(min(left, 4096 if self._read_pause_s else 1 << 16)))
            if not got:
                return False
            left -= got
            if self._read_pause_s:
                time.sleep(self._read_pause_s)
        if self._delay_s:
            time.sleep(self._delay_s)
        while wanted > 0:
            wanted -= connection.send(_FILLING[:wanted])
        return True

"""A socket server that many clients can't exhaust: a thread for each connection, a bounded number
of them, and no thread that wakes up without a client."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
from typing import Any

_MOST_CONNECTIONS = 16


class BoundedServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Stands before the server class that knows the kind of socket. Listens from the moment it is
    made, answers between `start` and `stop`. Connections beyond the bound are closed at once."""

    daemon_threads = True
    block_on_close = False
    logger: logging.Logger

    def __init__(self, address: Any, handler: Any) -> None:
        self.ending = False
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._thread: threading.Thread | None = None
        super().__init__(address, handler)

    def start(self, name: str) -> None:
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """New connections are refused; on those that are open what is under way may end, and a
        handler sees by `ending` to it that nothing else begins."""
        self.ending = True
        self.socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(self.welcome(request), client_address)
        except OSError as error:
            self.logger.debug("no connection with %s: %s", client_address, error)
            self.shutdown_request(request)
        finally:
            self._free.release()

    def welcome(self, connection: Any) -> Any:
        """The connection to talk over. Called in its own thread; an OSError ends it."""
        return connection

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients leave when they like; anything else is a defect that nobody else would tell of.
        clients = isinstance(sys.exception(), OSError)
        level = logging.DEBUG if clients else logging.ERROR
        self.logger.log(level, "an answer broke off", exc_info=True)

    def _serve(self) -> None:
        """Not serve_forever, which wakes up twice a second to see whether it shall end."""
        while not self.ending:
            self.handle_request()

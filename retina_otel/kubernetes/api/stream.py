"""The body of a watch: bytes as they come, read straight from the socket.

http.client gives one chunk a call, and the API server writes one chunk an event. Here a reader
waits for the first byte, naps so that more may come, then takes all there is at once: a hundred
events a second cost ten wake-ups.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import time
from email.message import Message
from http.client import HTTPConnection, HTTPException, parse_headers
from threading import Event

_LARGEST_HEAD = 64 << 10
_LARGEST_FRAME = 16 << 20
"""etcd takes no object above 1.5 MiB."""
_LARGEST_DRAIN = 64 << 10
"""Bytes taken at once. They are copied a few times on their way: blocks of this size are had again
and again, where larger ones are mapped anew each time, which costs as much as all else here."""
_PIECE = 64 << 10


class Stream:
    """An open response whose body is read as it comes. Not for many threads, but for `wake`."""

    def __init__(self, connection: HTTPConnection, timeout_s: float) -> None:
        """The request has been sent. Reads the response's head."""
        assert connection.sock is not None
        self._connection = connection
        self._socket: socket.socket = connection.sock
        self._socket.settimeout(timeout_s)
        head, rest = self._read_head()
        status_line, _, lines = head.partition(b"\r\n")
        try:
            self.status = int(status_line.split(b" ", 2)[1])
            self.headers: Message = parse_headers(io.BytesIO(lines))
        except (ValueError, IndexError, HTTPException) as error:
            raise ConnectionError("no HTTP response") from error
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = self.headers.get("Content-Length")
        self._body: _Chunks | _Plain = _Chunks() if chunked else _Plain(_length(length))
        self._ready = self._body.feed(rest)
        self._socket.setblocking(False)
        self._more = False
        """The last drain left something behind, very likely."""
        self._wake_out, self._wake_in = socket.socketpair()

    def close(self) -> None:
        self._connection.close()
        self._wake_out.close()
        self._wake_in.close()

    def wake(self) -> None:
        """Makes a waiting `read` return nothing. Any thread."""
        try:
            self._wake_in.send(b"x")
        except OSError:
            return

    def read(self, timeout_s: float, nap_s: float = 0.0, stop: Event | None = None) -> bytes:
        """What has come, empty only after `wake`. Waits for it at most `timeout_s`.

        Raises TimeoutError; EOFError after a proper end; OSError when the connection broke.
        """
        if self._ready:
            ready, self._ready = self._ready, b""
            return ready
        if self._body.ended:
            raise EOFError
        deadline = time.monotonic() + timeout_s
        while True:
            # TLS may have decrypted more than was taken: that makes no socket readable.
            if not self._more and not self._pending():
                left = deadline - time.monotonic()
                readable, _, _ = select.select(
                    [self._socket, self._wake_out], [], [], max(0.0, left)
                )
                if not readable:
                    raise TimeoutError("nothing came")
                if self._wake_out in readable:
                    return b""
            if nap_s and not self._more:
                _nap(nap_s, stop)
            if payload := self._drain():
                return payload

    def read_all(self, limit: int, timeout_s: float) -> bytes:
        """The rest of a body that ends, for errors."""
        parts: list[bytes] = []
        size = 0
        try:
            while size < limit:
                parts.append(self.read(timeout_s))
                size += len(parts[-1])
        except EOFError:
            pass
        return b"".join(parts)[:limit]

    def _pending(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _drain(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        closed = False
        while size < _LARGEST_DRAIN and not closed:
            try:
                piece = self._socket.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            parts.append(piece)
            size += len(piece)
            closed = not piece
        self._more = size >= _LARGEST_DRAIN
        payload = self._body.feed(b"".join(parts))
        if not payload and self._body.ended:
            raise EOFError
        if not payload and closed:
            raise ConnectionError("the connection was closed")
        return payload

    def _read_head(self) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            if len(received) > _LARGEST_HEAD:
                raise ConnectionError("the response's head has no end")
            piece = self._socket.recv(_PIECE)
            if not piece:
                raise ConnectionError("the connection was closed before a response")
            received += piece
        head, _, rest = received.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n", rest


class _Chunks:
    """HTTP/1.1 chunked transfer coding, undone."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""
        self._left = 0
        """Bytes of the present chunk still to come, with the line end behind it."""

    def feed(self, data: bytes) -> bytes:
        """The payload in what came. Raises ConnectionError."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, size = 0, len(data)
        parts: list[memoryview] = []
        view = memoryview(data)
        while at < size and not self.ended:
            if self._left:
                take = min(self._left, size - at)
                of_payload = min(take, self._left - 2)
                if of_payload > 0:
                    parts.append(view[at : at + of_payload])
                self._left -= take
                at += take
                continue
            end = data.find(b"\r\n", at, at + 1024)
            if end < 0:
                if size - at >= 1024:
                    raise ConnectionError("no chunk where one must begin")
                self._rest = data[at:]
                break
            try:
                length = int(data[at:end].partition(b";")[0], 16)
            except ValueError as error:
                raise ConnectionError("no chunk where one must begin") from error
            if length < 0:
                raise ConnectionError("no chunk where one must begin")
            at = end + 2
            self.ended = length == 0
            self._left = length + 2
        return b"".join(parts)


class _Plain:
    """A body of a stated length, or one that ends with the connection."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, data: bytes) -> bytes:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self.ended = self._left == 0
        return data


class Frames:
    """Cuts a watch's bytes into events: each has its length in front."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Each event that is whole by now. Raises ConnectionError at one that is too long."""
        if self._rest:
            data = self._rest + data
        frames, at, size = [], 0, len(data)
        while size - at >= 4:
            length = int.from_bytes(data[at : at + 4], "big")
            if length > _LARGEST_FRAME:
                raise ConnectionError("an event is too long")
            if size - at - 4 < length:
                break
            frames.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        self._rest = data[at:]
        return frames


class Lines:
    """Cuts a watch's bytes into events: each is a line of JSON."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Each event that is whole by now. Raises ConnectionError at one that is too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LARGEST_FRAME:
            raise ConnectionError("an event is too long")
        return [line for line in lines if line.strip()]


def _length(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConnectionError("no length in Content-Length")
    return int(text)


def _nap(nap_s: float, stop: Event | None) -> None:
    if stop is None:
        time.sleep(nap_s)
    else:
        stop.wait(nap_s)

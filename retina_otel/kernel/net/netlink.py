"""A netlink route socket: requests, dumps and attributes as bytes. No tables and no policy."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from retina_otel.errors import KernelError

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF
_NETLINK_ROUTE = 0
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 16
_DUMP_ATTEMPTS = 8
_NLMSGERR_ATTR_MSG = 1


class Message(NamedTuple):
    """One netlink message: `body` is the family's header and then attributes."""

    type: int
    flags: int
    sequence: int
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute, padded to 4 bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each attribute from `start` on; stops at anything malformed."""
    end = len(data)
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size or start + length > end:
            return
        yield kind & _NLA_TYPE_MASK, data[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; stops at anything malformed."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, flags, sequence, _pid = _HEADER.unpack_from(data, start)
        if length < _HEADER.size or start + length > len(data):
            return
        yield Message(kind, flags, sequence, data[start + _HEADER.size : start + length])
        start += (length + 3) & ~3


class RouteSocket:
    """A NETLINK_ROUTE socket in the namespace of the thread that makes it. Used by one thread."""

    def __init__(self, groups: int = 0, receive_bytes: int = 0, *, strict: bool = False) -> None:
        """`groups` is the mask of multicast groups to hear. `strict`: the kernel heeds attributes
        in requests for dumps. Raises KernelError."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE
            )
        except OSError as error:
            raise KernelError("socket(AF_NETLINK)", error.errno or errno.EIO) from error
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        if strict:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        if receive_bytes:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.bind((0, groups))
        self._sequence = 0

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Sends one request and waits for its acknowledgement. Raises KernelError."""
        sequence = self._send(kind, body, flags | NLM_F_REQUEST | NLM_F_ACK)
        for message in self._receive():
            if message.sequence == sequence and message.type == NLMSG_ERROR:
                _raise_if_error(kind, message)
                return

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """All messages of a dump, one consistent view. Raises KernelError."""
        for _ in range(_DUMP_ATTEMPTS):
            found = self._dump_once(kind, body)
            if found is not None:
                return found
        raise KernelError(
            "netlink dump", errno.EAGAIN, detail="the table changes faster than it can be read"
        )

    def pending(self) -> list[Message]:
        """What has arrived, without waiting. Raises OSError ENOBUFS when messages were lost."""
        found: list[Message] = []
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            found.extend(messages(data))

    def discard_pending(self) -> None:
        """Forgets all that has arrived, also what was lost on the way."""
        while True:
            try:
                if not self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("recv(AF_NETLINK)", error.errno or errno.EIO) from error

    def _dump_once(self, kind: int, body: bytes) -> list[Message] | None:
        sequence = self._send(kind, body, NLM_F_REQUEST | NLM_F_DUMP)
        found: list[Message] = []
        interrupted = False
        for message in self._receive():
            if message.sequence != sequence:
                continue
            interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
            if message.type == NLMSG_DONE:
                break
            if message.type == NLMSG_ERROR:
                _raise_if_error(kind, message)
                break
            found.append(message)
        return None if interrupted else found

    def _send(self, kind: int, body: bytes, flags: int) -> int:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)
        return self._sequence

    def _receive(self) -> Iterator[Message]:
        while True:
            yield from messages(self._socket.recv(_RECEIVE_BYTES))


def _raise_if_error(kind: int, message: Message) -> None:
    number = -struct.unpack_from("=i", message.body)[0]
    if number == 0:
        return
    said = ""
    # The error number, the head of the request (capped to that), and what the kernel has to say.
    for which, payload in attributes(message.body, 4 + _HEADER.size):
        if which == _NLMSGERR_ATTR_MSG:
            said = payload.rstrip(b"\0").decode(errors="replace")
    raise KernelError(
        f"netlink request {kind}",
        number,
        "Give the process CAP_NET_ADMIN" if number == errno.EPERM else "",
        detail=said,
    )

"""Looks connections up in the kernel's connection tracking: what answers in place of a destination.

Many look-ups go in one message, and each has exactly one answer, found by its sequence number. What
is asked and answered has one layout, so answers are read as columns; one of another layout is read
attribute by attribute.
"""

from __future__ import annotations

import errno
import socket
import struct

import numpy as np
import numpy.typing as npt

from retina_otel.errors import KernelError
from retina_otel.kernel.net import netlink
from retina_otel.kernel.net.netlink import NLM_F_REQUEST, NLMSG_ERROR
from retina_otel.model.namespaces import Tuples

PROTOCOLS = frozenset({6, 17, 132})
"""Those with ports that NAT translates: TCP, UDP, SCTP."""

Backends = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint16]]

_NETLINK_NETFILTER = 12
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 22
_ANSWER_BYTES = 1 << 13
_BATCH = 128
"""Their answers, a page or two each, have room in the socket's buffer."""
_CT_NEW, _CT_GET = 0x100, 0x101

_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY = 1, 2
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP = {4: (1, 2), 16: (3, 4)}
_CTA_PROTO_NUM, _CTA_PROTO_SOURCE, _CTA_PROTO_DESTINATION = 1, 2, 3
_NESTED = 0x8000

_HEADER = struct.Struct("=IHHII")
_TUPLE_AT = _HEADER.size + 4
_PREFIX = np.uint64(0xFFFF)
_Bytes = npt.NDArray[np.uint8]


class ConntrackSocket:
    """A socket that asks, in the namespace of the thread that makes it. Used by one thread."""

    def __init__(self) -> None:
        """Raises KernelError."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        except OSError as error:
            raise KernelError(
                "socket(NETLINK_NETFILTER)",
                error.errno or errno.EIO,
                "Use a kernel with CONFIG_NETFILTER_NETLINK",
            ) from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        # The kernel answers while it takes the question: nothing is ever waited for.
        self._socket.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def backends(self, asked: Tuples) -> Backends:
        """(hi, lo, port) of what answers for each destination, as its client addresses it.

        Zeros where the connection is not known, or its destination is not translated. Raises
        KernelError: EPERM without CAP_NET_ADMIN, EINVAL where the kernel can't be asked.
        """
        found: Backends = (
            np.zeros(len(asked), np.uint64),
            np.zeros(len(asked), np.uint64),
            np.zeros(len(asked), np.uint16),
        )
        ipv4 = (asked.destination_hi == 0) & (asked.destination_lo >> np.uint64(32) == _PREFIX)
        with_ports = np.isin(asked.protocol, list(PROTOCOLS))
        for family in (_Family(socket.AF_INET, 4), _Family(socket.AF_INET6, 16)):
            which = np.flatnonzero(with_ports & (ipv4 == (family.size == 4)))
            for start in range(0, len(which), _BATCH):
                rows = which[start : start + _BATCH]
                self._ask(family, asked.take(rows), rows, found)
        return found

    def _ask(
        self,
        family: _Family,
        asked: Tuples,
        rows: npt.NDArray[np.intp],
        found: Backends,
    ) -> None:
        first = self._sequence + 1
        self._sequence += len(asked)
        requests = family.requests(asked, first)
        try:
            self._socket.send(requests.tobytes())
        except OSError as error:
            raise KernelError("send(NETLINK_NETFILTER)", error.errno or errno.EIO) from error
        places: list[int] = []
        answers: list[bytes] = []
        for _ in range(len(asked)):
            answer = self._receive()
            _length, kind, _flags, sequence, _port = _HEADER.unpack_from(answer)
            if kind == NLMSG_ERROR:
                _raise_unless_unknown(answer)
            elif kind == _CT_NEW and 0 <= sequence - first < len(asked):
                places.append(sequence - first)
                answers.append(answer)
        if not answers:
            return
        place = np.array(places)
        hi, lo, port = family.replies(requests[place], answers)
        found[0][rows[place]] = hi
        found[1][rows[place]] = lo
        found[2][rows[place]] = port

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_ANSWER_BYTES)
        except OSError as error:
            raise KernelError("recv(NETLINK_NETFILTER)", error.errno or errno.EIO) from error


class _Family:
    """How tuples of IPv4 or IPv6 are laid out."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        source, destination = _CTA_IP[size]
        head = netlink.attribute(
            _CTA_TUPLE_IP | _NESTED,
            netlink.attribute(source, bytes(size)) + netlink.attribute(destination, bytes(size)),
        )
        ports = netlink.attribute(
            _CTA_TUPLE_PROTO | _NESTED,
            netlink.attribute(_CTA_PROTO_NUM, b"\0")
            + netlink.attribute(_CTA_PROTO_SOURCE, bytes(2))
            + netlink.attribute(_CTA_PROTO_DESTINATION, bytes(2)),
        )
        one = netlink.attribute(_CTA_TUPLE_ORIG | _NESTED, head + ports)
        self.source_at = 4 + 4 + 4
        self.destination_at = self.source_at + size + 4
        self.protocol_at = 4 + len(head) + 4 + 4
        self.source_port_at = self.protocol_at + 4 + 4
        self.destination_port_at = self.source_port_at + 4 + 4
        self._tuple = np.frombuffer(one, np.uint8)
        reply = netlink.attribute(_CTA_TUPLE_REPLY | _NESTED, head + ports)
        self._reply = np.frombuffer(reply, np.uint8)
        # What is the same in every tuple: all but addresses, protocol and ports.
        self._fixed = np.ones(len(one), np.bool_)
        for at, length in (
            (self.source_at, size),
            (self.destination_at, size),
            (self.protocol_at, 1),
            (self.source_port_at, 2),
            (self.destination_port_at, 2),
        ):
            self._fixed[at : at + length] = False

    def requests(self, asked: Tuples, first_sequence: int) -> _Bytes:
        """A message in each row."""
        length = _TUPLE_AT + len(self._tuple)
        rows = np.zeros((len(asked), length), np.uint8)
        head = _HEADER.pack(length, _CT_GET, NLM_F_REQUEST, 0, 0) + bytes([self.number, 0, 0, 0])
        rows[:, :_TUPLE_AT] = np.frombuffer(head, np.uint8)
        sequence = np.arange(first_sequence, first_sequence + len(asked), dtype="=u4")
        rows[:, 8:12] = sequence.view(np.uint8).reshape(-1, 4)
        one = rows[:, _TUPLE_AT:]
        one[:] = self._tuple
        self._put_address(one, self.source_at, asked.source_hi, asked.source_lo)
        self._put_address(one, self.destination_at, asked.destination_hi, asked.destination_lo)
        one[:, self.protocol_at] = asked.protocol
        for at, port in (
            (self.source_port_at, asked.source_port),
            (self.destination_port_at, asked.destination_port),
        ):
            one[:, at : at + 2] = port.astype(">u2").view(np.uint8).reshape(-1, 2)
        return rows

    def replies(self, requests: _Bytes, answers: list[bytes]) -> Backends:
        """The other end of what was asked for, zeros if it is the destination itself."""
        size = len(self._tuple)
        whole = _TUPLE_AT + 2 * size
        data = b"".join(answer[:whole].ljust(whole, b"\0") for answer in answers)
        rows = np.frombuffer(data, np.uint8).reshape(-1, whole)
        asked, original = requests[:, _TUPLE_AT:], rows[:, _TUPLE_AT : _TUPLE_AT + size]
        reply = rows[:, _TUPLE_AT + size :].copy()
        as_expected = (original == asked).all(1) & (
            reply[:, self._fixed] == self._reply[self._fixed]
        ).all(1)
        for row in np.flatnonzero(~as_expected).tolist():
            reply[row] = self._read(asked[row].tobytes(), answers[row])
        hi, lo = self._address(reply, self.source_at)
        port = reply[:, self.source_port_at : self.source_port_at + 2].copy().view(">u2")[:, 0]
        asked_hi, asked_lo = self._address(asked, self.destination_at)
        at = self.destination_port_at
        asked_port = asked[:, at : at + 2].copy().view(">u2")[:, 0]
        translated = (hi != asked_hi) | (lo != asked_lo) | (port != asked_port)
        translated &= (hi != 0) | (lo != 0)
        return (
            np.where(translated, hi, np.uint64(0)),
            np.where(translated, lo, np.uint64(0)),
            np.where(translated, port, 0).astype(np.uint16),
        )

    def _read(self, asked: bytes, answer: bytes) -> _Bytes:
        """The reply's tuple in the usual layout; that of the question, as if nothing were
        translated, if it was asked for from the other side, or is not understood."""
        nothing = np.frombuffer(asked, np.uint8).copy()
        nothing[self.source_at : self.source_at + self.size] = nothing[
            self.destination_at : self.destination_at + self.size
        ]
        nothing[self.source_port_at : self.source_port_at + 2] = nothing[
            self.destination_port_at : self.destination_port_at + 2
        ]
        found = dict(netlink.attributes(answer, _TUPLE_AT))
        original = self._parse(found.get(_CTA_TUPLE_ORIG, b""))
        if original != self._parse(asked[4:]):
            return nothing
        reply = self._parse(found.get(_CTA_TUPLE_REPLY, b""))
        if reply is None:
            return nothing
        source, source_port, *_ = reply
        nothing[self.source_at : self.source_at + self.size] = np.frombuffer(source, np.uint8)
        nothing[self.source_port_at : self.source_port_at + 2] = np.frombuffer(
            source_port, np.uint8
        )
        return nothing

    def _parse(self, one: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes] | None:
        parts = dict(netlink.attributes(one))
        addresses = dict(netlink.attributes(parts.get(_CTA_TUPLE_IP, b"")))
        ports = dict(netlink.attributes(parts.get(_CTA_TUPLE_PROTO, b"")))
        source, destination = _CTA_IP[self.size]
        read = (
            addresses.get(source, b""),
            ports.get(_CTA_PROTO_SOURCE, b""),
            addresses.get(destination, b""),
            ports.get(_CTA_PROTO_DESTINATION, b""),
            ports.get(_CTA_PROTO_NUM, b""),
        )
        return read if tuple(map(len, read)) == (self.size, 2, self.size, 2, 1) else None

    def _put_address(
        self, one: _Bytes, at: int, hi: npt.NDArray[np.uint64], lo: npt.NDArray[np.uint64]
    ) -> None:
        both = np.stack([hi, lo], axis=1).astype(">u8").view(np.uint8)
        one[:, at : at + self.size] = both[:, 16 - self.size :]

    def _address(
        self, one: _Bytes, at: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        both = np.zeros((len(one), 16), np.uint8)
        both[:, 16 - self.size :] = one[:, at : at + self.size]
        halves = both.view(">u8").astype(np.uint64)
        hi, lo = halves[:, 0], halves[:, 1]
        return (hi, lo | _PREFIX << np.uint64(32)) if self.size == 4 else (hi, lo)


def _raise_unless_unknown(answer: bytes) -> None:
    number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
    if number == errno.ENOENT:
        return
    remedies = {
        errno.EPERM: "Give the process CAP_NET_ADMIN",
        errno.EINVAL: "Load the module nf_conntrack_netlink",
        errno.EOPNOTSUPP: "Load the module nf_conntrack_netlink",
    }
    raise KernelError("netlink request IPCTNL_MSG_CT_GET", number, remedies.get(number, ""))

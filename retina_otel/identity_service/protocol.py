"""What goes over the wire between agents and the identity service.

gRPC with two methods and bytes of our own as messages, so no code is generated:

`/retina_otel.identity.v1.Identity/Watch` (one request, a stream of frames). The request is JSON,
`Subscription`. The first frame is HELLO: from which cluster and epoch, and whether the client's
state is carried on (`resumed`) or a snapshot follows. A snapshot is CHANGES frames with FULL, the
last one with LAST; then come changes as they happen, each batch closed by LAST, whose sequence the
client has from then on. HEARTBEAT comes when nothing else does, and whenever the state of the
service's own watches changes.

`/retina_otel.identity.v1.Identity/Probe` (one request of no bytes, one answer of no bytes): OK if
`Watch` would be answered.

A frame: type u8 · flags u8 · sequence u64 · then, for HELLO and HEARTBEAT, JSON; for CHANGES any
number of parts: topic's length u16 · topic · deleted u8 · block's length u32 · block (see `codec`).
Numbers are big-endian. A topic is a kind of object (`Kind.value`), or `pods@<node>` for the pods of
one node with all that is known of them: in `pods` container ids are left out, since they take
more bytes than all the rest and only a pod's own node has a use for them. A `local` client gets
`pods@<node>` and `nodes@<node>` in place of all pods and nodes.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retina_otel.errors import RetinaError

WATCH = "/retina_otel.identity.v1.Identity/Watch"
PROBE = "/retina_otel.identity.v1.Identity/Probe"
VERSION = 1

HELLO, CHANGES, HEARTBEAT = 1, 2, 3
LAST, FULL = 1, 2

MOST_REQUEST_BYTES = 64 << 10
MOST_FRAME_BYTES = 4 << 20
"""gRPC's own default limit of what is received."""

_HEADER = struct.Struct("!BBQ")
_LONGEST_NAME = 253
_TOPIC = struct.Struct("!H")
_LENGTH = struct.Struct("!I")


class ProtocolError(RetinaError):
    """A message is not what this version reads."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, "Run the same version of retina-otel in the identity service and in the agents"
        )


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of labels and annotations, of one kind of objects."""

    labels: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants, and what it has."""

    kinds: Mapping[str, Keys]
    """By `Kind.value`."""
    node: str = ""
    """Its own node: pods of this node come with all that is known of them."""
    local: bool = False
    """Of pods only those of its own node, of nodes only that."""
    cluster: str = ""
    """UID of the cluster its state is of; empty if it has none."""
    epoch: str = ""
    sequence: int = 0
    revisions: Mapping[str, int] = field(default_factory=dict)
    """By kind, the highest resourceVersion it has seen: an older snapshot would bring back what is
    gone, so the service waits a little until it has caught up."""

    def serialize(self) -> bytes:
        return json.dumps({"version": VERSION} | dataclasses.asdict(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Subscription:
        """Raises ProtocolError."""
        given = _json(data)
        if given.get("version") != VERSION:
            raise ProtocolError(f"version {given.get('version')!r} of the protocol is not spoken")
        kinds = _mapping(given, "kinds")
        if len(_of(given, "node", str)) > _LONGEST_NAME:
            raise ProtocolError("no node has so long a name")
        return cls(
            kinds={
                kind: Keys(_strings(keys, "labels"), _strings(keys, "annotations"))
                for kind, keys in kinds.items()
            },
            node=_of(given, "node", str),
            local=_of(given, "local", bool),
            cluster=_of(given, "cluster", str),
            epoch=_of(given, "epoch", str),
            sequence=_of(given, "sequence", int),
            revisions={
                kind: _of({"revision": revision}, "revision", int)
                for kind, revision in _mapping(given, "revisions").items()
            },
        )


@dataclass(frozen=True, slots=True)
class Hello:
    cluster: str
    epoch: str
    resumed: bool
    heartbeat_s: float

    def serialize(self, sequence: int) -> bytes:
        text = json.dumps(dataclasses.asdict(self)).encode()
        return _HEADER.pack(HELLO, 0, sequence) + text

    @classmethod
    def parse(cls, data: bytes) -> Hello:
        given = _json(data)
        return cls(
            cluster=_of(given, "cluster", str),
            epoch=_of(given, "epoch", str),
            resumed=_of(given, "resumed", bool),
            heartbeat_s=float(_of(given, "heartbeat_s", (int, float))),
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How the service's own watches are."""

    synced: bool
    since_ns: int
    reason: str = ""

    def serialize(self, sequence: int) -> bytes:
        text = json.dumps(dataclasses.asdict(self)).encode()
        return _HEADER.pack(HEARTBEAT, 0, sequence) + text

    @classmethod
    def parse(cls, data: bytes) -> Heartbeat:
        given = _json(data)
        return cls(
            synced=_of(given, "synced", bool),
            since_ns=_of(given, "since_ns", int),
            reason=_of(given, "reason", str),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Objects of one topic that are there, or are gone."""

    topic: str
    deleted: bool
    block: bytes


def part(topic: str, deleted: bool, block: bytes) -> bytes:
    """A part's bytes, to be put into frames."""
    name = topic.encode()
    return b"".join(
        (_TOPIC.pack(len(name)), name, bytes((deleted,)), _LENGTH.pack(len(block)), block)
    )


def changes(sequence: int, flags: int, parts: Iterable[bytes]) -> bytes:
    """A frame of parts."""
    return b"".join((_HEADER.pack(CHANGES, flags, sequence), *parts))


@dataclass(frozen=True, slots=True)
class Frame:
    type: int
    flags: int
    sequence: int
    payload: bytes

    @classmethod
    def parse(cls, data: bytes) -> Frame:
        """Raises ProtocolError."""
        if len(data) < _HEADER.size:
            raise ProtocolError("a frame is shorter than its header")
        type_, flags, sequence = _HEADER.unpack_from(data)
        return cls(type_, flags, sequence, data[_HEADER.size :])

    def parts(self) -> Iterator[Part]:
        """Raises ProtocolError."""
        data, at = self.payload, 0
        while at < len(data):
            try:
                begin = at + _TOPIC.size
                start = begin + _TOPIC.unpack_from(data, at)[0]
                topic = data[begin:start].decode()
                deleted = bool(data[start])
                (length,) = _LENGTH.unpack_from(data, start + 1)
            except (IndexError, struct.error, UnicodeDecodeError) as error:
                raise ProtocolError("a frame's part is malformed") from error
            at = start + 1 + _LENGTH.size + length
            if at > len(data):
                raise ProtocolError("a frame's part is cut off")
            yield Part(topic, deleted, data[at - length : at])


def _json(data: bytes) -> dict[str, Any]:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message holds no JSON") from error
    if type(given) is not dict:
        raise ProtocolError("a message holds no JSON object")
    return given


def _of(given: Mapping[str, Any], key: str, expected: type | tuple[type, ...]) -> Any:
    value = given.get(key)
    # JSON's true is an int to isinstance.
    if type(value) not in (expected if isinstance(expected, tuple) else (expected,)):
        raise ProtocolError(f"{key!r} of a message is missing or of a wrong type")
    return value


def _mapping(given: Mapping[str, Any], key: str) -> dict[str, Any]:
    value: dict[str, Any] = _of(given, key, dict)
    return value


def _strings(given: Any, key: str) -> tuple[str, ...]:
    values = given.get(key) if type(given) is dict else None
    if type(values) is not list or not all(type(value) is str for value in values):
        raise ProtocolError(f"{key!r} of a message is missing or of a wrong type")
    return tuple(values)

"""What stands around points and log records in an OTLP request: resource, scopes, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retina_otel.encode import protobuf
from retina_otel.encode.requests import Envelope, Group
from retina_otel.encode.scopes import EntityRef, scope_identity, sorted_set
from retina_otel.model.batches import AttributeValue

_MAX_LENGTHS = 16
"""Bytes for the tags and lengths of up to two nested messages; a length is at most five bytes."""


class ProtobufAssembler:
    """Export*ServiceRequest with one Resource*: metrics and logs have the same field numbers."""

    def __init__(
        self,
        resource: Mapping[str, AttributeValue],
        schema_url: str,
        entity_refs: Sequence[EntityRef] = (),
    ) -> None:
        attributes = protobuf.attributes(1, sorted_set(resource))
        refs = b"".join(protobuf.delimited(3, _entity_ref(ref)) for ref in entity_refs)
        self._resource = protobuf.delimited(1, attributes + refs)
        self._schema_url = protobuf.string(3, schema_url)
        self._scopes: dict[str, tuple[bytes, bytes]] = {}

    def overhead(self, scope: str | None, envelope: Envelope | None) -> int:
        if scope is not None:
            return sum(map(len, self._scope(scope))) + _MAX_LENGTHS
        if envelope is not None:
            return len(envelope.head) + len(envelope.tail) + _MAX_LENGTHS
        return len(self._resource) + len(self._schema_url) + _MAX_LENGTHS

    def assemble(self, scopes: list[tuple[str, list[Group]]]) -> bytes:
        size = len(self._resource) + len(self._schema_url)
        parts: list[bytes] = [self._resource]
        for scope, groups in scopes:
            head, schema_url = self._scope(scope)
            opened = [(_open(group), group) for group in groups]
            inner = len(head) + len(schema_url)
            inner += sum(len(o) + group.size + len(group.envelope.tail) for o, group in opened)
            start = b"\x12" + protobuf.varint(inner)
            size += len(start) + inner
            parts += (start, head)
            for before, group in opened:
                parts.append(before)
                parts += group.pieces
                parts.append(group.envelope.tail)
            parts.append(schema_url)
        parts.append(self._schema_url)
        return b"".join([b"\x0a", protobuf.varint(size), *parts])

    def _scope(self, scope: str) -> tuple[bytes, bytes]:
        """InstrumentationScope and schema URL of a Scope* message."""
        known = self._scopes.get(scope)
        if known is None:
            version, schema_url = scope_identity(scope)
            message = protobuf.string(1, scope) + protobuf.string(2, version)
            known = protobuf.delimited(1, message), protobuf.string(3, schema_url)
            self._scopes[scope] = known
        return known


def _open(group: Group) -> bytes:
    """The bytes before a group's rows: the start of a Metric, nothing for log records."""
    envelope = group.envelope
    if not envelope.data:
        return b""
    data = group.size + len(envelope.tail)
    head = envelope.head + envelope.data + protobuf.varint(data)
    return b"\x12" + protobuf.varint(len(head) + data) + head


def _entity_ref(ref: EntityRef) -> bytes:
    return b"".join(
        [
            protobuf.string(1, ref.schema_url),
            protobuf.string(2, ref.type),
            *(protobuf.string(3, key) for key in ref.id_keys),
            *(protobuf.string(4, key) for key in ref.description_keys),
        ]
    )

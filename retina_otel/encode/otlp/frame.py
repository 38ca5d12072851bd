"""What stands around points and log records in an OTLP request: resources, scopes, metrics."""

from __future__ import annotations

from retina_otel.encode import protobuf
from retina_otel.encode.requests import Envelope, Group, Scopes
from retina_otel.encode.scopes import EntityRef, entities_of, scope_identity
from retina_otel.model.attribute_sets import AttributeSet

_MAX_LENGTHS = 16
"""Bytes for the tags and lengths of up to two nested messages; a length is at most five bytes."""


class ProtobufAssembler:
    """Export*ServiceRequest: metrics and logs have the same field numbers."""

    def __init__(self, resource: bytes, schema_url: str) -> None:
        self._resource = resource
        self._schema_url = protobuf.string(3, schema_url)
        self._scopes: dict[str, tuple[bytes, bytes]] = {}

    def around_resource(self, resource: bytes | None) -> int:
        resource = self._resource if resource is None else resource
        return len(resource) + len(self._schema_url) + _MAX_LENGTHS

    def around_scope(self, scope: str) -> int:
        return sum(map(len, self._scope(scope))) + _MAX_LENGTHS

    def around_group(self, envelope: Envelope) -> int:
        return len(envelope.head) + len(envelope.tail) + _MAX_LENGTHS

    def assemble(self, resources: list[tuple[bytes | None, Scopes]]) -> bytes:
        out: list[bytes] = []
        for resource, scopes in resources:
            parts: list[bytes] = [self._resource if resource is None else resource]
            size = len(parts[0]) + len(self._schema_url)
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
            out += (b"\x0a", protobuf.varint(size), *parts, self._schema_url)
        return b"".join(out)

    def _scope(self, scope: str) -> tuple[bytes, bytes]:
        """InstrumentationScope and schema URL of a Scope* message."""
        known = self._scopes.get(scope)
        if known is None:
            version, schema_url = scope_identity(scope)
            message = protobuf.string(1, scope) + protobuf.string(2, version)
            known = protobuf.delimited(1, message), protobuf.string(3, schema_url)
            self._scopes[scope] = known
        return known


def resource_message(attributes: AttributeSet, *, entity_refs: bool) -> bytes:
    """The field that holds a Resource; with `entity_refs` it says which entities it stands for."""
    message = protobuf.attributes(1, attributes)
    if entity_refs:
        refs = map(_entity_ref, entities_of(attributes))
        message += b"".join(protobuf.delimited(3, ref) for ref in refs)
    return protobuf.delimited(1, message)


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
            protobuf.string(2, ref.type),
            *(protobuf.string(3, key) for key in ref.id_keys),
            *(protobuf.string(4, key) for key in ref.description_keys),
        ]
    )

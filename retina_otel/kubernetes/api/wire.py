"""How the API server writes lists and watches: protobuf, and JSON for what a CRD defines.

Both give the same: a message with `metadata` for each object, whatever is around it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.stream import Frames, Lines

_PROTOBUF = "application/vnd.kubernetes.protobuf"
_METADATA = "as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Splits(Protocol):
    def feed(self, data: bytes) -> list[bytes]:
        """Each event that is whole by now. Raises ConnectionError at one that is too long."""


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Any]
    resource_version: str
    continue_token: str


class Wire(Protocol):
    """`message` is the name of the kind's message. All raise WireError."""

    def splits(self) -> Splits: ...

    def accept(self, message: str, *, watch: bool) -> str: ...

    def page(self, message: str, body: bytes) -> Page: ...

    def event(self, message: str, frame: bytes) -> tuple[str, Any]:
        """Type of an event and its object: a Status for ERROR; for BOOKMARK only metadata."""


class Protobuf:
    def splits(self) -> Splits:
        return Frames()

    def accept(self, message: str, *, watch: bool) -> str:
        parts = [_PROTOBUF, *(["stream=watch"] if watch else [])]
        if message == "PartialObjectMetadata":
            parts.append(_METADATA.format("" if watch else "List"))
        return ";".join(parts)

    def page(self, message: str, body: bytes) -> Page:
        _, raw = protobuf.unwrap(body)
        found = protobuf.parse(f"{message}List", raw)
        meta = found.metadata
        return Page(found.items, meta.resource_version, meta.continue_token)

    def event(self, message: str, frame: bytes) -> tuple[str, Any]:
        event = protobuf.parse("WatchEvent", frame)
        _, raw = protobuf.unwrap(event.object.raw)
        others = {"ERROR": "Status", "BOOKMARK": "PartialObjectMetadata"}
        return event.type, protobuf.parse(others.get(event.type, message), raw)


@dataclass(frozen=True, slots=True)
class Document:
    """An object in JSON."""

    metadata: Any
    """Resource version and annotations, as in an ObjectMeta."""
    fields: dict[str, Any]


class Json:
    def splits(self) -> Splits:
        return Lines()

    def accept(self, message: str, *, watch: bool) -> str:
        return "application/json"

    def page(self, message: str, body: bytes) -> Page:
        found = _object(_parsed(body))
        meta = _object(found.get("metadata"))
        items = found.get("items")
        return Page(
            [_document(one) for one in items] if isinstance(items, list) else [],
            text(meta.get("resourceVersion")),
            text(meta.get("continue")),
        )

    def event(self, message: str, frame: bytes) -> tuple[str, Any]:
        event = _object(_parsed(frame))
        kind, object_ = text(event.get("type")), event.get("object")
        return kind, _status(_object(object_)) if kind == "ERROR" else _document(object_)


def text(value: object) -> str:
    """Text as it is, empty for anything else."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> dict[str, str]:
    """A mapping of texts, without what is none."""
    pairs = value.items() if isinstance(value, dict) else ()
    return {key: one for key, one in pairs if isinstance(one, str)}


def _document(value: object) -> Document:
    fields = _object(value)
    meta = _object(fields.get("metadata"))
    return Document(
        protobuf.message_class("ObjectMeta")(
            resource_version=text(meta.get("resourceVersion")),
            annotations=texts(meta.get("annotations")),
        ),
        fields,
    )


def _status(fields: dict[str, Any]) -> Any:
    code, details = fields.get("code"), _object(fields.get("details"))
    seconds = details.get("retryAfterSeconds")
    status = protobuf.message_class("Status")(message=text(fields.get("message")))
    if isinstance(code, int):
        status.code = max(0, min(code, 999))
    if isinstance(seconds, int):
        status.details.retry_after_seconds = max(0, min(seconds, 3600))
    return status


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as error:
        raise protobuf.WireError(
            "The API server sent what is no JSON",
            "Look for a proxy between the agent and the API server that changes content",
        ) from error

"""What proves who sends: asked before each request for the headers to add to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """What is about to be sent, for those that sign it. `body` is as it goes over the wire."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Authorizer(Protocol):
    """Used by one thread."""

    def headers(self, request: Request) -> dict[str, str]:
        """What to add to the request. Raises RetinaError while there are no credentials."""

    def refused(self) -> None:
        """The backend did not take the last ones (401, 403): get them anew for the next request."""

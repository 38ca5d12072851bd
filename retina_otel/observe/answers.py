"""What an agent answers on its socket: events that pass a filter, or who an address belongs to.

A request is a line of JSON, an answer is lines of JSON. `{"missed": n}` stands in a stream of
events where n of them, before the filter, came faster than they were read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retina_otel.errors import RetinaError
from retina_otel.observe.filters import Filter
from retina_otel.observe.history import History
from retina_otel.observe.identities import identities
from retina_otel.observe.records import Observed
from retina_otel.pipeline.identity.endpoints import EndpointTable

_LOOK_UP_S = 0.5

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """`last` of 0 means all that are kept; `what` is "events" or "identities"."""

    what: str = "events"
    filter: Filter = field(default_factory=Filter)
    last: int = 0
    follow: bool = False
    about: tuple[str, ...] = ()
    """Addresses, or namespace/name of pods; none: all."""

    @classmethod
    def parse(cls, line: bytes) -> Request:
        """Raises RetinaError for anything else."""
        try:
            given = json.loads(line)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise RetinaError("the request is no JSON object", "Send one line.")
        what, last, about = given.get("what"), given.get("last", 0), given.get("about", [])
        if what not in ("events", "identities"):
            raise RetinaError(f"nothing is known of {what!r}", "Ask for events or identities.")
        if not isinstance(last, int) or last < 0 or not isinstance(about, list):
            raise RetinaError("`last` or `about` is malformed", "Use the same version at both.")
        wanted = given.get("filter", {})
        if not isinstance(wanted, dict):
            raise RetinaError("`filter` is no JSON object", "Use the same version at both.")
        return cls(
            what,
            Filter.parse(wanted),
            last,
            bool(given.get("follow", False)),
            tuple(map(str, about)),
        )

    def to_json(self) -> Line:
        return {
            "what": self.what,
            "filter": self.filter.to_json(),
            "last": self.last,
            "follow": self.follow,
            "about": list(self.about),
        }


def answer(
    request: Request,
    *,
    history: History,
    table: EndpointTable,
    node: str,
) -> Iterator[Line]:
    """The lines of an answer; one that follows ends when the history ends."""
    if request.what == "identities":
        return identities(table, request.about, node)
    return events(request, history, node)


def events(request: Request, history: History, node: str) -> Iterator[Line]:
    past, follower = history.follow()
    try:
        yield from _newest(past, request, node)
        while request.follow and not follower.ended:
            observed_now, missed = follower.next(_LOOK_UP_S)
            if missed:
                yield {"missed": missed, "node": node}
            if observed_now is not None:
                yield from observed_now.records(request.filter.mask(observed_now), node)
    finally:
        history.leave(follower)


def _newest(past: Sequence[Observed], request: Request, node: str) -> list[Line]:
    """What was kept, by time; the last of it if only so many are wanted."""
    masks = [request.filter.mask(observed) for observed in past]
    times = [observed.time_ns[mask] for observed, mask in zip(past, masks, strict=True)]
    every = np.concatenate([np.zeros(0, np.int64), *times])
    if request.last and len(every) > request.last:
        # Only what may be among the last is made a record.
        oldest = np.partition(every, -request.last)[-request.last]
        for at, observed in enumerate(past):
            masks[at] &= observed.time_ns >= oldest
    found = [
        line
        for observed, mask in zip(past, masks, strict=True)
        for line in observed.records(mask, node)
    ]
    found.sort(key=lambda line: str(line["time"]))
    return found[-request.last :] if request.last else found

"""Observed: a block of events that outlives the buffer it came from.

Columns stay columns; of the attribute sets only those that occur are kept, as plain tuples. An
event becomes a record, a Python object, only when somebody is to see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.encode.event_body import bodies
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import DROP_EVENT
from retina_otel.pipeline.points import EventBlock

FORWARDED, DROPPED = VERDICTS = ("forwarded", "dropped")

Pairs = tuple[tuple[str, AttributeValue], ...]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the attribute sets of each event: event i has `pairs[codes[i]]`."""

    codes: npt.NDArray[np.intp]
    pairs: Sequence[Pairs]


@dataclass(frozen=True, slots=True)
class Observed:
    """n events of one kind."""

    name: str
    time_ns: npt.NDArray[np.int64]
    source: Part
    destination: Part
    own: Part
    integers: Mapping[str, npt.NDArray[np.int64]]
    summaries: Sequence[str]

    @classmethod
    def of(cls, block: EventBlock) -> Observed:
        """What `block` holds now; it may be acknowledged after this."""

        def part(ids: npt.NDArray[np.int32]) -> Part:
            used, codes = np.unique(ids, return_inverse=True)
            return Part(codes, [tuple(block.sets.get(number)) for number in used.tolist()])

        return cls(
            name=block.event.name,
            time_ns=block.time_ns,
            source=part(block.source),
            destination=part(block.destination),
            own=part(block.own),
            integers=block.integers,
            summaries=bodies(block, 0, len(block.time_ns)) if block.body else (),
        )

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def verdict(self) -> str:
        return DROPPED if self.name == DROP_EVENT.name else FORWARDED

    def records(self, chosen: Mask, node: str) -> Iterator[dict[str, Any]]:
        """The chosen events as JSON objects, in the order in which they came."""
        for row in np.flatnonzero(chosen).tolist():
            attributes: dict[str, AttributeValue] = {}
            for part in (self.own, self.source, self.destination):
                attributes.update(part.pairs[int(part.codes[row])])
            attributes.update((name, int(column[row])) for name, column in self.integers.items())
            yield {
                "time": time_text(int(self.time_ns[row])),
                "node": node,
                "event": self.name,
                "verdict": self.verdict,
                "summary": self.summaries[row] if self.summaries else "",
                "attributes": dict(sorted(attributes.items())),
            }


def time_text(time_ns: int) -> str:
    """RFC 3339 in UTC with all nine digits: texts sort as their times do."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"

"""`tally`: reports the next number of a list each time it is collected from, then nothing more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from retina_otel.component import Collected, Component, ComponentKind, Context, Settings
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.model.signals import Attribute, Event, Kind, Metric

COLOUR = Attribute("tally.colour", "string", "What is counted.", examples=("red",))
COUNTED = Metric(
    "tally.counted",
    Kind.COUNTER,
    "{thing}",
    "Things counted, by colour.",
    attributes=(COLOUR,),
    scope="retina_otel_tally.receiver",
)
SEEN = Event(
    "tally.seen",
    9,
    "A number of the list was reported.",
    attributes=(COLOUR,),
    scope="retina_otel_tally.receiver",
)


class TallySettings(Settings):
    """Counts from a list."""

    counts: list[int] = Field(default_factory=list)
    """One number for each collection."""
    colour: str = "red"
    """Value of `tally.colour`."""


class Tally:
    def __init__(self, settings: TallySettings, context: Context) -> None:
        self._left = list(settings.counts)
        self._colour = settings.colour
        self._context = context
        context.ledger.unit = "things"

    def start(self) -> None:
        self._context.logger.info("counting %d numbers", len(self._left))

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        if not self._left:
            return Collected()
        count = self._left.pop(0)
        self._context.ledger.add(seen=count, drained=count)
        colour = {COLOUR.name: Column(np.zeros(1, np.int32), [self._colour])}
        return Collected(
            metrics=[MetricBatch(window, {COUNTED: np.array([count], np.int64)}, colour)],
            events=[
                EventBatch(
                    SEEN,
                    window,
                    np.array([window.end_ns], np.int64),
                    colour,
                    body="{tally_colour} was counted",
                )
            ],
        )

    def fds(self) -> Sequence[int]:
        return ()

    def ready(self, fd: int) -> None:
        raise AssertionError(f"nothing was registered, but {fd} is ready")

    def stop(self) -> None:
        self._left.clear()


COMPONENT = Component(
    type="tally",
    kind=ComponentKind.RECEIVER,
    stability="development",
    Settings=TallySettings,
    create=Tally,
    signals=frozenset({"metrics", "logs"}),
    declares=(COUNTED, SEEN, COLOUR),
)

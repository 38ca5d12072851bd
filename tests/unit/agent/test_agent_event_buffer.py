"""How much waits for exporters in a logs pipeline is a setting of the pipeline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retina_otel.component import Collected, ComponentKind
from retina_otel.config.settings import PipelineSettings
from retina_otel.model.batches import EventBatch, Window
from retina_otel.model.signals import Event
from tests.unit.agent.agent_parts import (
    COUNTED,
    Count,
    CountSettings,
    Parts,
    Run,
    configuration,
    ticks,
)

PLAIN = Event("test.plain", 9, "something happened", (), scope="test")


class Burst(Count):
    """Reports so many events at once."""

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        found = super().collect(window, deadline_ns)
        n = sum(int(batch.values[COUNTED][0]) for batch in found.metrics)  # type: ignore[index]
        times = np.full(n, window.end_ns, np.int64)
        return Collected((), [EventBatch(PLAIN, window, times)] if n else ())


@pytest.mark.parametrize(("size", "kept"), [("64KiB", 1024), ("1MiB", 3000)])
def test_the_event_buffer_of_a_pipeline_holds_what_its_setting_says(
    parts: Parts, run: Run, size: str, kept: int
) -> None:
    """An event without attributes and text counts as 64 bytes."""
    settings = CountSettings(counts=[3000])
    burst = parts.other(
        ComponentKind.RECEIVER, "burst", lambda context: Burst("burst", settings, parts.story)
    )
    chosen = configuration(burst, parts.exporter())
    logs = chosen.service.pipelines["logs"].model_dump() | {"event_buffer": size}
    pipelines = {"logs": PipelineSettings.model_validate(logs)}
    service = chosen.service.model_copy(update={"pipelines": pipelines})
    agent = run(replace(chosen, service=service))
    ticks(agent, 2)
    assert agent.stop()
    assert parts.story.events == {"keep": kept}
    assert [reader.shed for reader in parts.exporters["keep"].events] == [3000 - kept]

"""An exporter that asks for several readers of a pipeline has them, and each is its own."""

from __future__ import annotations

from retina_otel.component import ComponentKind
from tests.unit.agent.agent_parts import COUNTED, PRIMES, Keep, Parts, Run, configuration, ticks


class Several(Keep):
    readers = 3


def test_an_exporter_is_given_as_many_readers_as_it_wants_and_each_gives_all(
    parts: Parts, run: Run
) -> None:
    several = Several("several", parts.story)
    agent = run(
        configuration(
            parts.receiver("red", PRIMES),
            parts.exporter(),
            parts.other(ComponentKind.EXPORTER, "several", several),
        )
    )
    ticks(agent, len(PRIMES) + 1)
    # Of the pipeline, and of the agent's own metrics.
    assert (len(several.metrics), len(several.events)) == (3 + 3, 1)
    sums = []
    for reader in several.metrics[:3]:
        export = reader.take()
        assert export is not None
        newest = [block for block in export.blocks if block.metric == COUNTED][-1]
        sums.append(int(newest.values.sum()))  # type: ignore[union-attr]
        reader.acknowledge(export)
    assert sums == [sum(PRIMES)] * 3
    assert agent.stop()
    assert parts.story.sums == {"keep": sum(PRIMES), "several": sum(PRIMES)}

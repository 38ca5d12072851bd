"""For unit tests: agents that end with the test, and hypothesis without a clock.

Hypothesis judges what is computed, never how long it took on a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from retina_otel.agent.agent import Agent
    from retina_otel.config.load import Configuration
    from tests.unit.agent.agent_parts import Parts

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture
def parts() -> Parts:
    from tests.unit.agent.agent_parts import Parts

    return Parts()


@pytest.fixture
def run() -> Iterator[Callable[[Configuration], Agent]]:
    """Starts an agent, which is stopped when the test ends."""
    from retina_otel.agent.agent import Agent

    agents: list[Agent] = []

    def start(configuration: Configuration, environment: dict[str, str] | None = None) -> Agent:
        agent = Agent(configuration, environment or {})
        agents.append(agent)
        agent.start()
        return agent

    yield start
    for agent in agents:
        agent.request_stop()
        agent.join(10)

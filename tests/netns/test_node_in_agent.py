"""Components are given what the node knows."""

from __future__ import annotations

from retina_otel.component import Collected, ComponentKind
from retina_otel.kernel import netns
from tests.unit.agent_parts import Parts, configuration
from tests.unit.conftest import run  # noqa: F401


def test_a_component_is_given_what_the_node_knows(run):  # noqa: F811
    asked = []

    class Asks:
        def __init__(self, context):
            self.context = context

        def start(self):
            pass

        def collect(self, window, deadline_ns):
            self.context.namespaces.refresh()
            asked.append(self.context)
            return Collected()

        def fds(self):
            return ()

        def stop(self):
            pass

    parts = Parts()
    agent = run(configuration(parts.other(ComponentKind.RECEIVER, "asks", Asks), parts.exporter()))
    agent.stop()

    context = asked[0]
    assert [one.inode for one in context.namespaces.current().values() if one.host] == [
        netns.own_inode()
    ]
    assert context.sockets.unavailable == context.translations.unavailable == ""

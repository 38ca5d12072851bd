"""Components are given what the node knows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from retina_otel.component import Collected, ComponentKind
from retina_otel.kernel.net import netns
from tests.unit.agent.agent_parts import Parts, configuration
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


PROCESSOR = """
import logging, os, time
import numpy as np
from retina_otel.component import Context
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.protocols import TRANSPORTS
from retina_otel.model.signals import FLOW_PACKETS, NETWORK_TRANSPORT
from retina_otel.node.facts import NodeFacts
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.ledger import Ledger
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings
netns = os.stat("/proc/self/ns/net").st_ino
table = EndpointTable()
table.update([
    Endpoint(EndpointKind.NODE, "node", {}, ("10.0.0.1",), netns=(netns,)),
    Endpoint(EndpointKind.POD, "pod", {}, aliases=("container",)),
    Endpoint(EndpointKind.SERVICE, "service", {}, ("10.0.0.2",)),
])
facts = NodeFacts(time.monotonic_ns, dict)
processor = IdentityProcessor(IdentitySettings(), Context(
    id="identity", clock=None, logger=logging.getLogger(), ledger=Ledger("identity", "rows"),
    identity=table, interfaces=None, translations=facts.translations, sockets=facts.sockets,
    degraded=print,
))
def ends(last):
    address = np.array([0xFFFF_0A00_0000 + last], np.uint64)
    return RawEnds(np.zeros(1, np.uint64), address, np.ones(1, np.uint16), np.zeros(1, np.uint32))
tcp = Column(np.full(1, 6, np.int32), TRANSPORTS)
for _ in range(2):
    processor.process_metrics(MetricBatch(
        Window(0, 1), {FLOW_PACKETS: np.ones(1, np.int64)}, {NETWORK_TRANSPORT.name: tcp},
        ends(1), ends(2),
    ))
"""
CLOSED = "sockets closed between two looks are not seen: "
HELD = "the node's processes can't be looked at: "
LOOKED_UP = "connections can't be looked up: "


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({"bpf", "perfmon", "net_admin"}, {}),
        ({"bpf", "perfmon"}, {CLOSED: "CAP_NET_ADMIN", LOOKED_UP: "CAP_NET_ADMIN"}),
        ({"bpf", "net_admin"}, {HELD: "CAP_PERFMON"}),
    ],
    ids=["all rights", "no CAP_NET_ADMIN", "no CAP_PERFMON"],
)
def test_the_identity_processor_says_once_which_right_it_lacks(kept, told):
    keeps = ",".join(["-all", *(f"+{name}" for name in sorted(kept))])
    done = subprocess.run(
        [
            *("setpriv", f"--inh-caps={keeps}", f"--bounding-set={keeps}"),
            *(sys.executable, "-c", PROCESSOR),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == (1 if told else 0)
    said = "".join(lines)
    assert {what: right for what, right in told.items() if what in said and right in said} == told
    assert sum(said.count(what) for what in (CLOSED, HELD, LOOKED_UP)) == len(told)

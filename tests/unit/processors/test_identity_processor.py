"""Who an end is: by interface, by namespace, then by address where the address is one of ours."""

from __future__ import annotations

import numpy as np
import pytest

from retina_otel.model.batches import UNKNOWN_ROW, RawEnds
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.processors.identity_ends import resolve

NODE_NETNS, POD_NETNS, OTHER_NETNS, NOT_TOLD = 4026531840, 4026532001, 4026532999, 0
POD_ADDRESS = 0xFFFF_0A00_0001


@pytest.fixture
def table() -> EndpointTable:
    made = EndpointTable()
    made.update(
        [
            Endpoint(EndpointKind.NODE, "node", {}, netns=(NODE_NETNS,)),
            Endpoint(EndpointKind.POD, "here", {}, interfaces=(7,), netns=(POD_NETNS,)),
            Endpoint(EndpointKind.POD, "there", {}, addresses=("10.0.0.1",)),
        ]
    )
    return made


def who(
    table: EndpointTable, *, ifindex: int = 0, netns: int = 0, seen: int | None = None
) -> str | None:
    """The key of an end with the address of the pod "there"."""
    ends = RawEnds(
        hi=np.zeros(1, np.uint64),
        lo=np.array([POD_ADDRESS], np.uint64),
        port=np.zeros(1, np.uint16),
        ifindex=np.array([ifindex], np.uint32),
        netns=np.array([netns], np.uint32),
        seen_netns=None if seen is None else np.array([seen], np.uint32),
    )
    rows = resolve(table, ends)
    assert rows is not None
    return None if rows[0] == UNKNOWN_ROW else table.endpoint(int(rows[0])).key


@pytest.mark.parametrize("seen", [None, NODE_NETNS, POD_NETNS])
def test_an_address_tells_in_the_namespaces_of_the_node_and_of_pods(
    table: EndpointTable, seen: int | None
) -> None:
    assert who(table, seen=seen) == "there"


@pytest.mark.parametrize("seen", [OTHER_NETNS, NOT_TOLD])
def test_an_address_tells_nothing_in_a_namespace_that_nobody_knows(
    table: EndpointTable, seen: int
) -> None:
    assert who(table, seen=seen) is None
    assert who(table, seen=seen, netns=seen) is None


def test_interface_and_namespace_come_before_the_address(table: EndpointTable) -> None:
    assert who(table, ifindex=7, seen=NODE_NETNS) == "here"
    assert who(table, netns=POD_NETNS, seen=POD_NETNS) == "here"


def test_a_namespace_that_becomes_known_gives_its_addresses_a_meaning(
    table: EndpointTable,
) -> None:
    table.update([Endpoint(EndpointKind.POD, "new", {}, netns=(OTHER_NETNS,))], source="later")
    assert who(table, netns=OTHER_NETNS, seen=OTHER_NETNS) == "new"
    assert who(table, seen=OTHER_NETNS) == "there"

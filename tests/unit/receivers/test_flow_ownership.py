"""Whose packet it is at an uplink, told from rows as the kernel would count them."""

from __future__ import annotations

import numpy as np

from retina_otel.receivers.flows.ownership import UplinkJudge, halves
from retina_otel.receivers.flows.rows import N_FLAGS, FlowRows

NODE, PEER = "172.30.0.2", "172.30.0.3"
EGRESS, LOCAL_SOCKET = 0x100, 0x200
UPLINK = 7 << 10
VXLAN = 4789


def rows(*flows: tuple[str, str, int, int, int, int]) -> FlowRows:
    """Of (source, destination, source port, destination port, meta, packets)."""
    source_hi, source_lo = halves([flow[0] for flow in flows])
    destination_hi, destination_lo = halves([flow[1] for flow in flows])
    count = len(flows)
    return FlowRows(
        source_hi=source_hi,
        source_lo=source_lo,
        destination_hi=destination_hi,
        destination_lo=destination_lo,
        source_port=np.array([flow[2] for flow in flows], np.uint16),
        destination_port=np.array([flow[3] for flow in flows], np.uint16),
        meta=np.array([flow[4] | UPLINK for flow in flows], np.uint32),
        ipv6=np.zeros(count, np.bool_),
        packets=np.array([flow[5] for flow in flows], np.int64),
        bytes=np.array([100 * flow[5] for flow in flows], np.int64),
        first=np.zeros(count, np.uint32),
        last=np.zeros(count, np.uint32),
        flags=np.zeros((count, N_FLAGS), np.uint32),
    )


def test_a_tunnel_that_carries_pods_is_elsewhere_in_both_directions_whatever_its_source_ports() -> (
    None
):
    judge = UplinkJudge(1000)
    judged = judge.judge(
        rows(
            (NODE, PEER, 50001, VXLAN, 17 | EGRESS, 3),
            (NODE, PEER, 50002, VXLAN, 17 | EGRESS, 5),
            (PEER, NODE, 61234, VXLAN, 17, 7),
            (PEER, NODE, 61235, VXLAN, 17, 11),
        ),
        halves([NODE]),
    )
    assert int(judged.elsewhere.packets.sum()) == 3 + 5 + 7 + 11
    assert len(judged.ours) == len(judged.held) == 0


def test_what_the_node_itself_sends_through_a_tunnel_does_not_make_the_tunnel_its_own() -> None:
    judge = UplinkJudge(1000)
    judged = judge.judge(
        rows(
            (NODE, PEER, 50001, VXLAN, 17 | EGRESS, 3),
            (NODE, PEER, 50002, VXLAN, 17 | EGRESS | LOCAL_SOCKET, 5),
            (PEER, NODE, 61234, VXLAN, 17, 7),
        ),
        halves([NODE]),
    )
    assert int(judged.ours.packets.sum()) == 5
    assert int(judged.elsewhere.packets.sum()) == 3 + 7


def test_a_port_that_was_a_pod_s_may_be_the_node_s_later() -> None:
    judge = UplinkJudge(1000)
    forwarded = rows((NODE, PEER, 40000, 443, 6 | EGRESS, 3), (PEER, NODE, 443, 40000, 6, 5))
    own = rows(
        (NODE, PEER, 40000, 443, 6 | EGRESS | LOCAL_SOCKET, 7), (PEER, NODE, 443, 40000, 6, 11)
    )
    assert int(judge.judge(forwarded, halves([NODE])).elsewhere.packets.sum()) == 3 + 5
    assert int(judge.judge(own, halves([NODE])).ours.packets.sum()) == 7 + 11
    assert int(judge.judge(forwarded, halves([NODE])).elsewhere.packets.sum()) == 3 + 5


def test_an_unanswered_packet_is_held_for_one_generation_and_then_the_node_s() -> None:
    judge = UplinkJudge(1000)
    first = judge.judge(rows((PEER, NODE, 5000, 9, 17, 13)), halves([NODE]))
    assert int(first.held.packets.sum()) == 13
    second = judge.judge(rows(), halves([NODE]))
    assert int(second.ours.packets.sum()) == 13
    assert len(second.held) == 0


def test_a_held_packet_whose_reply_a_pod_sends_is_elsewhere() -> None:
    judge = UplinkJudge(1000)
    judge.judge(rows((PEER, NODE, 5000, 30080, 6, 1)), halves([NODE]))
    judged = judge.judge(rows((NODE, PEER, 30080, 5000, 6 | EGRESS, 1)), halves([NODE]))
    assert int(judged.elsewhere.packets.sum()) == 2
    assert len(judged.ours) == 0

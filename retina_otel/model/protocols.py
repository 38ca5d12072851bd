"""Values of `network.transport` and `network.type` for what a packet's header says.

The semantic conventions know `tcp` and `udp` (and `quic`, `unix`, `pipe`, which no IP header
tells). Any other protocol has its IANA keyword in lower case, or its number where it has none, so
that nothing is folded into an "other" that cannot be taken apart again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import Column

_KEYWORDS = {
    0: "hopopt",
    1: "icmp",
    2: "igmp",
    4: "ipv4",
    6: "tcp",
    8: "egp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    43: "ipv6-route",
    44: "ipv6-frag",
    46: "rsvp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    59: "ipv6-nonxt",
    60: "ipv6-opts",
    88: "eigrp",
    89: "ospf",
    94: "ipip",
    97: "etherip",
    98: "encap",
    103: "pim",
    108: "ipcomp",
    112: "vrrp",
    115: "l2tp",
    132: "sctp",
    135: "mobility-header",
    136: "udplite",
    137: "mpls-in-ip",
    139: "hip",
    143: "ethernet",
}

TRANSPORTS: Sequence[str] = tuple(_KEYWORDS.get(number, str(number)) for number in range(256))
"""`network.transport` by IP protocol number."""

NETWORK_TYPES: Sequence[str] = ("ipv4", "ipv6")


def transport(protocol: int) -> str:
    """`network.transport` of an IP protocol number (0..255)."""
    return TRANSPORTS[protocol]


def transport_column(
    protocol: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_] | None = None
) -> Column:
    """The column of n protocol numbers; absent where `known` is False (the packet is not IP)."""
    codes = protocol.astype(np.int32)
    if known is not None:
        codes[~known] = -1
    return Column(codes, TRANSPORTS)


def network_type_column(version: npt.NDArray[np.uint8]) -> Column:
    """The column of n IP versions (4 or 6); absent for any other number."""
    codes = np.full(len(version), -1, dtype=np.int32)
    codes[version == 4] = 0
    codes[version == 6] = 1
    return Column(codes, NETWORK_TYPES)

"""Records of events as compact lines and as rows of a table."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]

HEADINGS = ("TIME", "NODE", "SOURCE", "DESTINATION", "PROTOCOL", "VERDICT", "SUMMARY")


def end(record: Record, side: str) -> str:
    """One end in as few words as say who it is: pod, service, node, named network, or address."""
    attributes = record["attributes"]

    def get(name: str) -> str:
        return str(attributes.get(f"{side}.{name}", ""))

    # Type, code and identifier of ICMP stand where others have ports.
    icmp = str(attributes.get("network.transport", "")).startswith("icmp")
    port = "" if icmp else get("port")
    namespace, pod, service = (
        get("k8s.namespace.name"),
        get("k8s.pod.name"),
        get("k8s.service.name"),
    )
    if pod:
        name = f"{namespace}/{pod}"
    elif service:
        name = f"{namespace}/{service}"
    else:
        name = get("k8s.node.name") or get("cidr")
    address = get("address")
    if not name:
        kind = get("k8s.resource.type")
        name = f"{address} ({kind})" if address and kind else address or kind or "unknown"
    return f"{name}:{port}" if port else name


def compact(record: Record) -> str:
    """One line, without its time and node."""
    attributes = record["attributes"]
    protocol = attributes.get("network.transport", "")
    what = attributes.get("retina.drop.reason") or attributes.get("retina.tcp.flags") or ""
    packets = attributes.get("retina.event.packets", 1)
    n_bytes = attributes.get("retina.event.bytes", 0)
    words = [
        end(record, "source"),
        "->",
        end(record, "destination"),
        record["event"].rpartition(".")[2],
        record["verdict"].upper(),
        f"({' '.join(filter(None, (str(protocol), str(what))))})",
        f"{packets} packets {n_bytes} bytes",
    ]
    return " ".join(words)


def columns(record: Record) -> tuple[str, ...]:
    """One row of a table, by HEADINGS."""
    attributes = record["attributes"]
    what = attributes.get("retina.drop.reason") or attributes.get("retina.tcp.flags") or ""
    packets = attributes.get("retina.event.packets", 1)
    return (
        record["time"],
        record["node"],
        end(record, "source"),
        end(record, "destination"),
        str(attributes.get("network.transport", "")),
        record["verdict"].upper(),
        f"{what} {packets} packets".strip(),
    )

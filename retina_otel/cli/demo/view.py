"""Tables of the demo: what the agent says, and beside it what senders and interfaces say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retina_otel.cli.demo.checks import Equality, Wires
from retina_otel.cli.demo.figures import EGRESS, FLOWS_LEDGER, Figures, Flow
from retina_otel.testing.demo_world import Sender

_WIDE = 150
_FEW = 5
_BELOW = 26
"""Lines that the drops and the ledger take below the flows."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All that is shown at one time."""

    elapsed_s: float
    seen: Figures
    wires: Wires
    senders: Sequence[Sender]
    before: Figures | None = None
    """The figures one refresh ago, `apart_s` earlier: for rates."""
    apart_s: float = 0.0


def headline(moment: Moment, url: str, otlp: str) -> Text:
    return Text.assemble(
        ("retina-otel demo", "bold"),
        f"   {moment.elapsed_s:.0f} s   metrics ",
        (url, "cyan"),
        "   OTLP ",
        (otlp, "cyan"),
        no_wrap=True,
        overflow="ellipsis",
    )


def live(moment: Moment, url: str, otlp: str, *, width: int, height: int) -> RenderableType:
    """The view that is refreshed: two columns where the terminal is wide, else the busiest flows
    first and as many as leave room for drops and ledger."""
    others = [drops(moment.seen), ledger(moment.seen), interfaces(moment.seen, moment.wires)]
    if width < _WIDE:
        most = max(_FEW, height - _BELOW)
        return Group(
            headline(moment, url, otlp), flows(moment, most), *others, senders(moment.senders)
        )
    grid = Table.grid(padding=(0, 3))
    grid.add_row(Group(flows(moment), senders(moment.senders)), Group(*others))
    return Group(headline(moment, url, otlp), grid)


def final(moment: Moment) -> RenderableType:
    return Group(
        flows(moment),
        drops(moment.seen),
        ledger(moment.seen),
        interfaces(moment.seen, moment.wires),
        senders(moment.senders),
    )


def flows(moment: Moment, most: int | None = None) -> Table:
    """The busiest pairs first; beyond `most` only how many more there are."""
    table = _table("Flows by pair, as the agent counts them", "source", "destination", "protocol")
    _numbers(table, "packets", "bytes", *(["packets/s"] if moment.before else []))
    chosen = _once_each(moment.seen.packets)
    for flow in chosen[:most]:
        packets = moment.seen.packets[flow]
        cells = [flow.source, flow.destination, flow.transport, f"{packets:,}"]
        cells.append(f"{moment.seen.bytes.get(flow, 0):,}")
        if moment.before and moment.apart_s:
            gained = packets - moment.before.packets.get(flow, 0)
            cells.append(f"{gained / moment.apart_s:,.0f}")
        table.add_row(*cells)
    if most is not None and len(chosen) > most:
        table.add_row(f"and {len(chosen) - most} more")
    return table


def drops(seen: Figures) -> Table:
    table = _table("Drops by reason", "reason", "source", "destination", "protocol")
    _numbers(table, "packets")
    for drop, packets in sorted(seen.drops.items(), key=lambda item: (item[0].reason, -item[1])):
        if packets:
            reason = Text(drop.reason, "red")
            table.add_row(reason, drop.source, drop.destination, drop.transport, f"{packets:,}")
    return table


def ledger(seen: Figures) -> Table:
    table = _table("Ledger", "book", "account")
    _numbers(table, "packets")
    for name, books in sorted(seen.books.items()):
        if not name.startswith("receiver/") or not books.accounts.get("seen"):
            continue
        for account in ("seen", *sorted(books.accounts.keys() - {"seen", "lost"}), "lost"):
            number = books.accounts.get(account, 0)
            if not number and account != "lost":
                continue
            reasons = {"not_ours": books.not_ours, "lost": books.lost}.get(account, {})
            named = ", ".join(f"{why} {n:,}" for why, n in reasons.items() if n)
            label = f"{account} ({named})" if named else account
            style = "" if account != "lost" else "bold red" if number else "green"
            table.add_row(name.removeprefix("receiver/"), label, Text(f"{number:,}", style))
    if FLOWS_LEDGER not in seen.books:
        table.add_row("flows", "nothing yet", "")
    return table


def interfaces(seen: Figures, wires: Wires) -> Table:
    table = _table("Interfaces: own counters, and the agent's sums for the same wire", "pod")
    _numbers(table, "sent", "agent", "received", "agent", "coverage")
    for pod, counters in wires.pods.items():
        ratio = seen.coverage.get(f"veth-{pod.rpartition('/')[2]}")
        table.add_row(
            pod,
            f"{counters.rx_packets:,}",
            f"{seen.leaving(pod)[0]:,}",
            f"{counters.tx_packets:,}",
            f"{seen.entering(pod)[0]:,}",
            "" if ratio is None else f"{ratio:.4f}",
        )
    return table


def senders(each: Iterable[Sender]) -> Table:
    table = _table("Senders: what they put on the wire, by their own tally", "what", "from", "to")
    _numbers(table, "sent", "answered", "payload")
    for sender in each:
        talk, total = sender.talk, sender.total
        table.add_row(
            Text(talk.what, "red" if sender.failure else ""),
            talk.source,
            talk.destination,
            f"{total.sent.packets:,}",
            f"{total.received.packets:,}",
            f"{total.sent.payload + total.received.payload:,}",
        )
    return table


def verdict(stated: Iterable[Equality]) -> Table:
    """Every equality, with its terms and whether it holds."""
    table = _table("Equalities")
    for name in ("", "what"):
        table.add_column(name, no_wrap=True)
    table.add_column("who says how many")
    for _, group in groupby(stated, key=lambda equality: equality.group):
        for equality in group:
            table.add_row(
                Text("ok", "green") if equality.holds else Text("mismatch", "bold red"),
                equality.what,
                _chain(equality.terms),
            )
        table.add_section()
    return table


def progress(moment: Moment) -> str:
    """One line for where there is no terminal."""
    books = moment.seen.books.get(FLOWS_LEDGER)
    accounts = books.accounts if books else {}
    dropped = sum(moment.seen.drops.values())
    return (
        f"{moment.elapsed_s:5.1f} s  pairs {len(_once_each(moment.seen.packets))}"
        f"  packets seen {accounts.get('seen', 0):,}  dropped {dropped:,}"
        f"  lost {accounts.get('lost', 0):,}"
    )


def _chain(terms: Sequence[tuple[str, int]]) -> str:
    """`a 1 = b 1 ≠ c 2`"""
    text = ""
    for position, (who, number) in enumerate(terms):
        if position:
            text += " = " if number == terms[position - 1][1] else " ≠ "
        text += f"{who} {number:,}"
    return text


def _once_each(packets: Mapping[Flow, int]) -> list[Flow]:
    """A pair of pods is seen at both ends: where it leaves, if that end is here."""
    leaving = {(f.source, f.destination, f.transport) for f in packets if f.direction == EGRESS}
    chosen = [
        flow
        for flow in packets
        if flow.direction == EGRESS
        or (flow.source, flow.destination, flow.transport) not in leaving
    ]
    return sorted(chosen, key=lambda flow: -packets[flow])


def _table(title: str, *texts: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for text in texts:
        table.add_column(text, no_wrap=True)
    return table


def _numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)

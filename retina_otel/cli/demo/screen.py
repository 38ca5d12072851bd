"""Where the demo writes: a live view on a terminal, lines elsewhere, one JSON object if asked
for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live

from retina_otel.cli.demo import view
from retina_otel.cli.demo.checks import Equality
from retina_otel.cli.demo.view import Moment

_WITHOUT_TERMINAL = 130
_EVERY_S = 2.0


class Screen:
    """With `as_json` standard output gets the object only; the rest goes to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        console = Console(stderr=as_json, highlight=False)
        if not console.is_terminal:
            console = Console(stderr=as_json, highlight=False, width=_WITHOUT_TERMINAL)
        self._console = console
        self._live: Live | None = None
        self._places = ("", "")
        self._next_line_s = 0.0
        self._first = True
        self._moment: Moment | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def live(self, url: str, otlp: str) -> Iterator[None]:
        """Inside, `show` refreshes the view. `url` and `otlp` are where the same can be read."""
        self._places = (url, otlp)
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, screen=True, auto_refresh=False) as self._live:
            yield
        self._live = None

    def show(self, moment: Moment) -> None:
        if self._live is not None:
            width, height = self._console.size
            shown = view.live(moment, *self._places, width=width, height=height)
            self._live.update(shown, refresh=True)
            return
        if self._first and moment.seen.packets:
            self._first = False
            self._console.print(view.flows(moment))
        if moment.elapsed_s >= self._next_line_s:
            self._next_line_s = moment.elapsed_s + _EVERY_S
            self.say(view.progress(moment))

    def finish(self, moment: Moment, stated: Sequence[Equality]) -> None:
        """The final tables."""
        self._moment = moment
        if not self._as_json:
            self._console.print(view.final(moment))
            self._console.print(view.verdict(stated))

    def conclude(self, ok: bool, stated: Sequence[Equality]) -> None:
        held = sum(equality.holds for equality in stated)
        self.say(f"{held} of {len(stated)} equalities hold")
        if self._as_json and self._moment is not None:
            print(json.dumps(_as_object(self._moment, stated, ok), indent=2))


def _as_object(moment: Moment, stated: Sequence[Equality], ok: bool) -> dict[str, Any]:
    seen = moment.seen
    return {
        "ok": ok,
        "duration_s": round(moment.elapsed_s, 3),
        "flows": [
            {
                "source": flow.source,
                "destination": flow.destination,
                "transport": flow.transport,
                "direction": flow.direction,
                "packets": packets,
                "bytes": seen.bytes.get(flow, 0),
            }
            for flow, packets in seen.packets.items()
        ],
        "drops": [
            {
                "reason": drop.reason,
                "source": drop.source,
                "destination": drop.destination,
                "transport": drop.transport,
                "packets": packets,
            }
            for drop, packets in seen.drops.items()
        ],
        "ledgers": {
            name: {
                **books.accounts,
                "not_ours": dict(books.not_ours),
                "lost": dict(books.lost),
                "difference": books.difference,
            }
            for name, books in seen.books.items()
        },
        "interfaces": {
            pod: {
                "sent": counters.rx_packets,
                "received": counters.tx_packets,
                "coverage": seen.coverage.get(f"veth-{pod.rpartition('/')[2]}"),
            }
            for pod, counters in moment.wires.pods.items()
        },
        "senders": [
            {
                "what": sender.talk.what,
                "source": sender.talk.source,
                "destination": sender.talk.destination,
                "sent": sender.total.sent.packets,
                "answered": sender.total.received.packets,
            }
            for sender in moment.senders
        ],
        "equalities": [
            {
                "group": equality.group,
                "what": equality.what,
                "holds": equality.holds,
                "terms": dict(equality.terms),
            }
            for equality in stated
        ],
    }

"""Whatever the network does: the books close, sums are right, events come or are counted.

A relay stands between each exporter and its backend. Time passes on the test's clock, but for what
waits on a socket.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.pipeline.ledger import LedgerReport
from tests.e2e.fault_kit import Kit
from tests.e2e.fault_kits import KITS, WITH_EVENTS
from tests.e2e.faults import Relay, Stepped, SteppedClock, no_threads, relay_to

OUTAGE_S = 600
"""Twice the time for which a request is tried by default."""


@dataclass
class Line:
    """From an exporter over a relay to a backend."""

    kit: Kit
    relay: Relay

    def exporter(self, **settings: Any) -> Stepped:
        scheme = "https" if self.relay.tls is not None else "http"
        chosen = {"interval": "15s", "events_interval": "1s", **settings}
        return Stepped(self.kit.make(self.relay.port, scheme, **chosen), SteppedClock())

    def ends_well(self, stepped: Stepped, twice: dict[str, int] | None = None) -> LedgerReport:
        """What comes when all works again is there, and sums are those of the source. Deltas that
        came twice count twice."""
        stepped.source.tick(100, b=20)
        for _ in range(20):
            # A connection may want a moment of real time to come back.
            stepped.run(30)
            if stepped.bench.reasons[-1:] == [""]:
                break
        ledger = stepped.stop()
        assert stepped.bench.reasons[-1] == ""
        truth = Counter(stepped.source.truth)
        if twice and not self.kit.cumulative:
            truth += Counter(twice)
        assert self.kit.sums() == truth
        if self.kit.has_events:
            lost = sum(n for name, n in ledger.lost.items() if name.startswith("events"))
            assert len(set(self.kit.numbers())) + lost == stepped.source.events
        assert self.kit.faults() == []
        return ledger


@pytest.fixture(params=KITS)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    kit = KITS[request.param]()
    with no_threads(), relay_to(kit.port) as relay:
        yield Line(kit, relay)
    kit.close()


def test_a_backend_that_is_away_for_minutes_costs_old_events_and_no_sums(line: Line) -> None:
    stepped = line.exporter()
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    line.relay.down()
    stepped.source.tick(100, a=10, c=3)
    stepped.run(OUTAGE_S)
    stepped.source.tick(100, a=100)
    line.relay.up()
    ledger = line.ends_well(stepped)
    if line.kit.has_events:
        assert line.kit.numbers() == [*range(100), *range(200, 400)]
        assert ledger.lost == {"events_expired": 100}
    assert set(ledger.exports["points"].request_failures) == {"connection_refused"}
    assert ledger.exports["points"].failed == {}


@pytest.mark.parametrize("line", WITH_EVENTS, indirect=True)
def test_with_a_spool_a_backend_that_is_away_for_minutes_costs_nothing(
    line: Line, tmp_path: Path
) -> None:
    stepped = line.exporter(spool={"directory": str(tmp_path)})
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    line.relay.down()
    for _ in range(10):
        stepped.source.tick(100, a=10, c=3)
        stepped.run(OUTAGE_S / 10)
    line.relay.up()
    ledger = line.ends_well(stepped)
    assert line.kit.numbers() == list(range(1200))
    assert (ledger.lost, ledger.exports["events"].exported) == ({}, 1200)


def test_a_connection_reset_in_the_middle_of_a_body_costs_nothing(line: Line) -> None:
    stepped = line.exporter()
    line.relay.cut_after = 3000
    stepped.source.tick(300, **{f"{number:04d}": number for number in range(1, 2000)})
    stepped.run(40)
    assert set(stepped.bench.ledger.report().exports["points"].request_failures) == {
        "connection_lost"
    }
    assert line.kit.requests("points", accepted=True) == 0
    line.relay.cut_after = None
    ledger = line.ends_well(stepped)
    if line.kit.has_events:
        assert line.kit.numbers() == list(range(400))
    assert ledger.lost == {}


def test_a_backend_that_takes_and_never_answers_costs_nothing(line: Line) -> None:
    stepped = line.exporter(timeout="300ms")
    line.relay.silent = True
    stepped.source.tick(100, a=1, b=2)
    stepped.run(5)
    failures = set(stepped.ledger.exports["points"].request_failures)
    assert failures in ({"timeout"}, {"connect_timeout"})
    line.relay.silent = False
    line.relay.reset()
    ledger = line.ends_well(stepped)
    if line.kit.has_events:
        assert line.kit.numbers() == list(range(200))
    assert ledger.lost == {}


def test_a_slow_backend_within_the_timeout_is_only_slow(line: Line) -> None:
    stepped = line.exporter(timeout="5s")
    line.kit.delay(0.3)
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    line.kit.work()
    stepped.bench.reasons.append("")
    ledger = line.ends_well(stepped)
    assert [counts.request_failures for counts in ledger.exports.values()] == [
        {} for _ in ledger.exports
    ]
    if line.kit.has_events:
        assert line.kit.numbers() == list(range(200))


def test_where_answers_are_lost_items_come_twice_and_sums_are_right(line: Line) -> None:
    kit = line.kit
    stepped = line.exporter()

    def taken() -> int:
        return kit.requests("points", accepted=True) + kit.requests("events", accepted=True)

    line.relay.answers_lost = taken
    stepped.source.tick(400, **{f"{number:04d}": number for number in range(1, 500)})
    stepped.run(1)
    assert set(stepped.ledger.exports["points"].request_failures) == {"connection_lost"}
    sums = kit.sums()
    twice = {unit: kit.items(unit, accepted=True) for unit in ("points", "events")}
    assert twice["points"] > 0
    line.relay.answers_lost = None
    line.relay.reset()
    ledger = line.ends_well(stepped, sums)
    for unit, counts in ledger.exports.items():
        assert counts.exported == kit.items(unit, accepted=True) - twice[unit]
    if kit.has_events:
        # At least once: whole requests whose answers were lost are there again.
        assert twice["events"] > 0
        assert kit.numbers() == [*range(400)] * (twice["events"] // 400) + [*range(500)]
    assert ledger.lost == {}


def context(cert: trustme.LeafCert) -> ssl.SSLContext:
    """A server's, for HTTP as for gRPC."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.set_alpn_protocols(["h2", "http/1.1"])
    cert.configure_cert(made)
    return made


@pytest.mark.parametrize("fault", ["expired", "another-ca", "another-name"])
def test_a_certificate_that_is_not_to_be_trusted_costs_nothing_until_it_is_renewed(
    line: Line, tmp_path: Path, fault: str
) -> None:
    ca = trustme.CA()
    good = ca.issue_cert("127.0.0.1")
    long_ago = datetime.now(UTC) - timedelta(days=9)
    bad = {
        "expired": lambda: ca.issue_cert(
            "127.0.0.1", not_before=long_ago, not_after=long_ago + timedelta(days=1)
        ),
        "another-ca": lambda: trustme.CA().issue_cert("127.0.0.1"),
        "another-name": lambda: ca.issue_cert("elsewhere.example"),
    }[fault]()
    file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    line.relay.tls = context(good)
    stepped = line.exporter(tls={"ca_file": str(file)})
    stepped.source.tick(100, a=1)
    stepped.run(20)
    assert line.kit.sums() == {"a": 1}
    line.relay.tls = context(bad)
    line.relay.reset()
    stepped.source.tick(100, a=10)
    stepped.run(40)
    assert "certificate" in stepped.bench.reasons[-1]
    assert "tls.ca_file" in stepped.bench.reasons[-1]
    line.relay.tls = context(good)
    ledger = line.ends_well(stepped)
    failures = set(ledger.exports["points"].request_failures)
    assert failures - {"connection_lost"} == {"tls_certificate"}
    if line.kit.has_events:
        assert line.kit.numbers() == list(range(300))
    assert ledger.lost == {}

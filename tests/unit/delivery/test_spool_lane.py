"""Events over the disk: in order, each in exactly one account, through outages and restarts."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from retina_otel.delivery.compression import Compression, Compressor
from retina_otel.delivery.lane import LaneOptions
from retina_otel.delivery.lanes import EventsRoute
from retina_otel.delivery.otlp_wire import LOGS
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.retry import RetryPolicy
from retina_otel.delivery.spool.lane import SpoolLane
from retina_otel.delivery.spool.queue import SpoolLimits, SpoolPlace
from retina_otel.encode.otlp import LogsEncoder
from retina_otel.model.signal_types import Event
from retina_otel.pipeline.ledger import LedgerReport
from retina_otel.testing.exporters import Bench, EventsFeed, ManualClock
from retina_otel.testing.points import Occurrence, event_block

EVENT = Event("retina.test", 9, "something", scope="test")
ACCEPTED = Outcome(Result.ACCEPTED)
UNAVAILABLE = Outcome(Result.RETRY, "http_503", "HTTP 503")
TOO_LARGE = Outcome(Result.TOO_LARGE, "too_large", "HTTP 413")
REFUSED = Outcome(Result.REFUSED, "http_400", "HTTP 400")
ROOMY = SpoolLimits(64 << 20, 0)


class Backend:
    """A Sender whose requests end here: it takes what `answer` says, and remembers what it took."""

    def __init__(
        self,
        answer: Callable[[bytes], Outcome] = lambda body: ACCEPTED,
        compression: Compression = Compression.GZIP,
    ) -> None:
        self.answer = answer
        self.taken: list[bytes] = []
        self.encodings: set[str] = set()
        self._compressor = Compressor(compression)

    def pack(self, body: bytes, n_items: int) -> Packed:
        return Packed(*self._compressor.compress(body), n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        self.encodings.add(packed.encoding)
        outcome = self.answer(packed.body())
        if outcome.result is Result.ACCEPTED:
            self.taken.append(packed.body())
        return outcome

    def abort(self) -> None: ...

    def close(self) -> None: ...

    def stamps(self) -> list[int]:
        """The times of all log records that were taken, in order."""
        return [
            record.time_unix_nano
            for request in map(ExportLogsServiceRequest.FromString, self.taken)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


class Rig:
    """One process: a lane, its spool, a buffer of events, and a clock of its own."""

    def __init__(
        self,
        directory: Path,
        backend: Backend,
        *,
        limits: SpoolLimits = ROOMY,
        clock: ManualClock | None = None,
        max_bytes: int = 4 << 20,
        feed: EventsFeed | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.bench = Bench(self.clock)
        report = DeliveryReport(
            self.bench.ledger, self.bench.logger, self.clock, self.bench.reasons.append
        )
        self.events = feed or EventsFeed()
        self.spool = SpoolPlace(directory, "otlp-logs", limits).open(self.clock, report.damaged)
        route = EventsRoute(
            encode=lambda: LogsEncoder({}).requests,
            sender=backend,
            split=LOGS.split,
            interval_s=1.0,
            max_bytes=max_bytes,
        )
        options = LaneOptions(
            clock=self.clock, report=report, random=random.Random(7), retry=RetryPolicy()
        )
        self.lane = SpoolLane("events", [self.events], route, options, self.spool)

    def happen(self, first: int, n: int) -> None:
        """Events with the times first, first + 1, ..."""
        occurrences = [Occurrence(time_ns=time) for time in range(first, first + n)]
        self.events.append(event_block(EVENT, occurrences))

    def run(self, seconds: float) -> None:
        """Steps the lane whenever it is due, for so long."""
        end = self.clock.monotonic_ns() + round(seconds * 1e9)
        while not self.lane.finished and self.lane.due_ns < end:
            self.clock.advance_to(self.lane.due_ns)
            self.lane.step()
        self.clock.advance_to(end)

    def stop(self, seconds: float = 5.0) -> LedgerReport:
        self.lane.begin_flush(self.bench.deadline_ns(seconds))
        self.run(seconds + 1)
        assert self.lane.finished
        self.lane.close()
        return self.ledger

    def kill(self) -> None:
        """What SIGKILL leaves: files as they are, and no lock."""
        self.spool.close()

    @property
    def ledger(self) -> LedgerReport:
        report = self.bench.ledger.report()
        assert report.difference == 0
        return report


def test_events_wait_on_the_disk_while_the_backend_is_away_for_hours(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend)
    for hour in range(6):
        rig.happen(1 + hour * 10, 10)
        rig.run(3600)
        assert rig.events.take(1 << 20) is None
        assert (rig.ledger.held, rig.ledger.seen) == ((hour + 1) * 10, (hour + 1) * 10)
    backend.answer = lambda body: ACCEPTED
    rig.run(60)
    assert backend.stamps() == list(range(1, 61))
    ledger = rig.ledger
    assert (ledger.drained, ledger.held, dict(ledger.lost)) == (60, 0, {})
    assert rig.bench.reasons[-1] == ""


def test_what_a_killed_process_had_taken_is_sent_by_the_next(tmp_path: Path) -> None:
    first = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    first.happen(1, 40)
    first.run(30)
    first.kill()
    backend = Backend()
    second = Rig(tmp_path, backend)
    second.happen(41, 2)
    second.run(10)
    assert backend.stamps() == list(range(1, 43))
    ledger = second.ledger
    assert (ledger.seen, ledger.drained, ledger.held) == (42, 42, 0)
    assert ledger.beside["events_resumed"] == 40


def test_killed_between_answer_and_acknowledgement_one_request_comes_twice(
    tmp_path: Path,
) -> None:
    backend = Backend()
    first = Rig(tmp_path, backend)

    def answered_and_killed(body: bytes) -> Outcome:
        if len(backend.taken) < 2:
            return ACCEPTED
        backend.taken.append(body)
        raise KeyboardInterrupt

    backend.answer = answered_and_killed
    for time in range(1, 5):
        first.happen(time, 1)
    with pytest.raises(KeyboardInterrupt):
        first.run(60)
    first.kill()
    backend.answer = lambda body: ACCEPTED
    second = Rig(tmp_path, backend)
    second.run(10)
    assert backend.stamps() == [1, 2, 3, 3, 4]
    assert second.ledger.beside["events_resumed"] == 2


def test_killed_right_after_an_answer_was_read_nothing_comes_twice(tmp_path: Path) -> None:
    backend = Backend()
    rig = Rig(tmp_path, backend)
    rig.happen(1, 5)
    while not backend.taken:
        rig.clock.advance_to(rig.lane.due_ns)
        rig.lane.step()
    rig.kill()
    after = Rig(tmp_path, backend)
    after.run(5)
    assert (backend.stamps(), after.ledger.beside["events_resumed"]) == ([1, 2, 3, 4, 5], 0)


def test_what_comes_before_a_flush_is_given_up_is_on_the_disk(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    rig.happen(1, 3)
    rig.lane.begin_flush(rig.bench.deadline_ns(5))
    rig.lane.step()
    rig.happen(4, 2)
    rig.lane.give_up()
    rig.lane.close()
    assert (rig.ledger.not_ours, rig.ledger.lost) == ({"events_kept": 5}, {})


def test_a_stop_leaves_what_is_not_sent_for_the_next_start_and_books_it_as_kept(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    rig.happen(1, 7)
    rig.run(10)
    rig.happen(8, 3)
    ledger = rig.stop()
    assert (ledger.seen, ledger.drained, ledger.held, dict(ledger.lost)) == (10, 0, 0, {})
    assert ledger.not_ours == {"events_kept": 10}
    backend = Backend()
    second = Rig(tmp_path, backend)
    second.run(10)
    assert backend.stamps() == list(range(1, 11))
    ledger = second.stop()
    assert (ledger.seen, ledger.drained, dict(ledger.not_ours)) == (10, 10, {})


def test_a_stop_sends_what_it_can(tmp_path: Path) -> None:
    backend = Backend()
    rig = Rig(tmp_path, backend)
    rig.happen(1, 7)
    ledger = rig.stop()
    assert backend.stamps() == list(range(1, 8))
    assert (ledger.drained, dict(ledger.not_ours)) == (7, {})


def test_another_compression_after_a_restart_is_used(tmp_path: Path) -> None:
    first = Rig(tmp_path, Backend(lambda body: UNAVAILABLE, Compression.ZSTD))
    first.happen(1, 3)
    first.run(3)
    first.kill()
    backend = Backend(compression=Compression.GZIP)
    Rig(tmp_path, backend).run(3)
    assert (backend.stamps(), backend.encodings) == ([1, 2, 3], {"gzip"})


@pytest.mark.parametrize(("outcome", "why"), [(REFUSED, "refused"), (TOO_LARGE, "too_large")])
def test_what_the_backend_never_takes_is_counted_and_the_next_is_sent(
    tmp_path: Path, outcome: Outcome, why: str
) -> None:
    backend = Backend(lambda body: outcome)
    rig = Rig(tmp_path, backend)
    rig.happen(1, 5)
    rig.run(10)
    backend.answer = lambda body: ACCEPTED
    rig.happen(6, 1)
    rig.run(10)
    assert backend.stamps() == [6]
    assert (rig.ledger.lost, rig.ledger.held) == ({f"events_{why}": 5}, 0)


def test_a_request_that_is_too_large_is_halved_and_each_event_arrives_once(
    tmp_path: Path,
) -> None:
    backend = Backend(lambda body: TOO_LARGE if LOGS.count(body) > 9 else ACCEPTED)
    rig = Rig(tmp_path, backend)
    rig.happen(1, 100)
    rig.run(10)
    assert backend.stamps() == list(range(1, 101))
    assert (rig.ledger.drained, rig.ledger.held) == (100, 0)


def test_events_that_are_too_old_are_thrown_away_also_while_they_are_tried(
    tmp_path: Path,
) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend, limits=SpoolLimits(64 << 20, 100))
    rig.happen(1, 2)
    rig.run(50)
    rig.happen(3, 1)
    rig.run(60)
    backend.answer = lambda body: ACCEPTED
    rig.run(31)
    assert backend.stamps() == [3]
    assert (rig.ledger.lost, rig.ledger.held) == ({"events_expired": 2}, 0)


def test_beyond_the_size_the_oldest_are_thrown_away_and_counted(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE, Compression.NONE)
    rig = Rig(tmp_path, backend, limits=SpoolLimits(1 << 20, 0))
    for number in range(40):
        rig.happen(1 + number * 1000, 1000)
        rig.run(1)
    held = rig.ledger.held
    backend.answer = lambda body: ACCEPTED
    rig.run(60)
    # The first request was being tried all the time, so it was out of the limit's reach.
    assert backend.stamps() == [*range(1, 1001), *range(41_001 - held, 40_001)]
    assert rig.ledger.lost == {"events_spool_full": 40_000 - held}


def test_what_was_thrown_away_while_it_was_tried_is_not_said_to_be_kept(tmp_path: Path) -> None:
    small = SpoolLimits(1 << 20, 0)
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE, Compression.NONE), limits=small)
    for number in range(40):
        rig.happen(1 + number * 1000, 1000)
        rig.run(1)
    ledger = rig.stop(0)
    after = Rig(tmp_path, Backend(), limits=small)
    assert ledger.not_ours == {"events_kept": after.ledger.held}
    assert ledger.lost == {"events_spool_full": 40_000 - after.ledger.held}


def test_damage_costs_what_it_must_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    for time in range(1, 5):
        first.happen(time * 10, 10)
    first.run(3)
    first.kill()
    (segment,) = tmp_path.glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 0xFF
    segment.write_bytes(content)
    backend = Backend()
    second = Rig(tmp_path, backend)
    second.run(3)
    assert backend.stamps() == list(range(10, 40))
    ledger = second.ledger
    assert (ledger.lost, ledger.beside["spool_set_aside"]) == ({"events_spool_corrupt": 10}, 1)
    assert [r.getMessage() for r in caplog.records if str(segment) in r.getMessage()] != []


def test_what_the_buffer_shed_before_it_came_to_the_disk_is_booked(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Backend(), feed=EventsFeed(most_blocks=2))
    for time in range(5):
        rig.happen(time, 1)
    rig.run(5)
    assert (rig.ledger.drained, rig.ledger.lost) == (2, {"events_shed": 3})


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows any more: the kernel refuses it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_degrades_and_events_go_on_over_memory(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend)
    rig.happen(1, 10)
    rig.run(3)
    with full_disk():
        rig.happen(11, 10)
        rig.run(30)
        assert "takes no events" in rig.bench.reasons[-1]
        assert "HTTP 503" in rig.bench.reasons[-1]
        assert (rig.ledger.seen, rig.ledger.held) == (10, 10)
        backend.answer = lambda body: ACCEPTED
        rig.run(30)
        assert backend.stamps() == list(range(1, 21))
        assert "takes no events" in rig.bench.reasons[-1]
    rig.happen(21, 10)
    rig.run(30)
    assert backend.stamps() == list(range(1, 31))
    assert rig.bench.reasons[-1] == ""
    assert (rig.ledger.drained, rig.ledger.held, dict(rig.ledger.lost)) == (30, 0, {})


def test_room_on_the_disk_again_takes_what_waited_in_memory(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend)
    with full_disk():
        rig.happen(1, 10)
        rig.run(30)
        assert rig.ledger.held == 0
    rig.run(3)
    assert rig.ledger.held == 10
    rig.kill()
    after = Backend()
    Rig(tmp_path, after).run(3)
    assert after.stamps() == list(range(1, 11))


def test_stopped_with_a_full_disk_and_a_dead_backend_books_what_is_lost(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    rig.happen(1, 4)
    rig.run(3)
    with full_disk():
        rig.happen(5, 6)
        rig.run(3)
        ledger = rig.stop()
    assert (ledger.lost, ledger.not_ours) == ({"events_shutdown": 6}, {"events_kept": 4})


ANSWERS = st.sampled_from(["accept", "retry", "large", "refuse", "partial"])
STEPS = st.lists(st.sampled_from(["events", "run", "full", "room", "restart"]), max_size=25)


@settings(max_examples=50, deadline=None)
@given(STEPS, st.lists(ANSWERS, max_size=40))
def test_each_event_ends_in_exactly_one_account_whatever_happens(
    steps: list[str], script: list[str]
) -> None:
    truth = {"accepted": 0, "rejected": 0, "refused": 0, "too_large": 0}
    answers = list(script)

    def answer(body: bytes) -> Outcome:
        n = LOGS.count(body)
        what = answers.pop(0) if answers else "accept"
        if what == "retry":
            return UNAVAILABLE
        if what == "large":
            truth["too_large"] += n == 1
            return TOO_LARGE
        if what == "refuse":
            truth["refused"] += n
            return REFUSED
        rejected = 1 if what == "partial" else 0
        truth["accepted"] += n - rejected
        truth["rejected"] += rejected
        return Outcome(Result.ACCEPTED, "partial_success" if rejected else "", rejected=rejected)

    backend = Backend(answer)
    totals = {"seen": 0, "drained": 0, "resumed": 0, "kept": 0}
    lost: dict[str, int] = {}

    def end(rig: Rig) -> None:
        # No time to send: all that waits is kept, if the disk takes it.
        ledger = rig.stop(0)
        totals["seen"] += ledger.seen
        totals["drained"] += ledger.drained
        totals["resumed"] += ledger.beside["events_resumed"]
        totals["kept"] += ledger.not_ours.get("events_kept", 0)
        for name, n in ledger.lost.items():
            lost[name] = lost.get(name, 0) + n

    happened = 0
    with TemporaryDirectory(dir="/dev/shm") as name:
        rig = Rig(Path(name), backend)
        disk = None
        for step in [*steps, "room", "run", "run"]:
            if step == "events":
                rig.happen(happened + 1, 3)
                happened += 3
            elif step == "run":
                rig.run(400)
            elif step == "full" and disk is None:
                disk = full_disk()
                disk.__enter__()
            elif step == "room" and disk is not None:
                disk.__exit__(None, None, None)
                disk = None
            elif step == "restart":
                end(rig)
                rig = Rig(Path(name), backend)
        rig.run(4000)
        end(rig)
    assert totals["seen"] - totals["resumed"] == happened
    assert totals["drained"] == truth["accepted"]
    assert totals["kept"] == totals["resumed"]
    assert sum(lost.values()) + totals["drained"] == happened
    for why in ("rejected", "refused", "too_large"):
        assert lost.get(f"events_{why}", 0) == truth[why]

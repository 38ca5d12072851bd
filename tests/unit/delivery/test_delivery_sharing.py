"""What exporters of one agent do once for all: when they begin, what they take, what they send."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from retina_otel.component import ComponentKind, Context
from retina_otel.config.load import Instance
from retina_otel.delivery.compression import Compression
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.lane import LaneOptions
from retina_otel.delivery.lanes import MetricsLane, MetricsRoute
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.push import Push
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.sender import PlainSender
from retina_otel.delivery.sharing import Sharing
from retina_otel.encode.otlp import MetricsEncoder, Request
from retina_otel.pipeline.once import Once
from retina_otel.pipeline.points import MetricsExport, PointBlock, Temporality
from retina_otel.testing.exporters import Bench, ManualClock, MetricsFeed, Source
from tests.unit.agent.agent_parts import Keep, Parts, Run, configuration, until
from tests.unit.delivery.scripted_http_server import Server, serve

S = 10**9


class Counting:
    """Requests of one byte, as many as blocks; counts what it made."""

    def __init__(self, n: int = 3, fails_at: int | None = None) -> None:
        self.n = n
        self.fails_at = fails_at
        self.made = 0
        self.encoders = 0

    def encoder(self) -> Counting:
        self.encoders += 1
        return self

    def __call__(self, blocks: Sequence[PointBlock], max_bytes: int) -> Iterator[Request]:
        for number in range(self.n):
            if number == self.fails_at:
                raise RuntimeError("a defect of ours")
            self.made += 1
            yield Request(bytes([number]), 1)


def pack(body: bytes, n_items: int) -> Packed:
    return Packed(body, "", n_items, len(body))


class Weak(Packed):
    """A request of which one can see when it goes."""

    __slots__ = ("__weakref__",)


def weakly(body: bytes, n_items: int) -> Packed:
    return Weak(body, "", n_items, len(body))


def export() -> MetricsExport:
    return MetricsExport(1, ())


def test_requests_of_one_export_and_key_are_made_once_whoever_reads_first() -> None:
    counting, taken = Counting(), export()
    sharing = Sharing()
    one, two = (sharing.encoder("key", counting.encoder) for _ in range(2))
    first, second = one.requests(taken, 10, pack), two.requests(taken, 10, pack)
    assert next(first).data == b"\0"
    assert [packed.data for packed in second] == [b"\0", b"\1", b"\2"]
    assert [packed.data for packed in first] == [b"\1", b"\2"]
    assert (counting.made, counting.encoders) == (3, 1)


def test_another_bound_another_key_and_another_export_are_encoded_for_themselves() -> None:
    counting, taken = Counting(), export()
    sharing = Sharing()
    one, two = (sharing.encoder("key", counting.encoder) for _ in range(2))
    other = sharing.encoder("other", counting.encoder)
    list(one.requests(taken, 10, pack))
    list(two.requests(taken, 9, pack))
    list(two.requests(export(), 10, pack))
    list(other.requests(taken, 10, pack))
    assert counting.made == 12


def test_the_requests_of_one_exporter_alone_are_kept_by_nobody() -> None:
    counting, taken = Counting(), export()
    encoder = Sharing().encoder("key", counting.encoder)
    made = [weakref.ref(packed) for packed in encoder.requests(taken, 10, weakly)]
    assert [packed() for packed in made] == [None] * 3


def test_nothing_is_shared_without_a_key() -> None:
    counting, taken = Counting(), export()
    sharing = Sharing()
    for _ in range(2):
        list(sharing.encoder(None, counting.encoder).requests(taken, 10, pack))
    assert (counting.made, counting.encoders) == (6, 2)


def test_a_defect_in_a_shared_encoder_is_everybodys_and_never_looks_like_the_end() -> None:
    counting, taken = Counting(fails_at=1), export()
    sharing = Sharing()
    for encoder in [sharing.encoder("key", counting.encoder) for _ in range(2)]:
        requests = encoder.requests(taken, 10, pack)
        assert next(requests).data == b"\0"
        with pytest.raises(RuntimeError):
            next(requests)


def test_an_encoder_goes_with_the_last_that_holds_it() -> None:
    counting, sharing = Counting(), Sharing()
    held = sharing.encoder("key", counting.encoder)
    sharing.encoder("key", counting.encoder)
    assert counting.encoders == 1
    del held
    gc.collect()
    sharing.encoder("key", counting.encoder)
    assert counting.encoders == 2


def test_what_is_made_once_is_made_once_by_many_threads() -> None:
    once, made = Once(), []
    at_once = threading.Barrier(8)

    def ask() -> None:
        at_once.wait()
        once.get("key", lambda: made.append(threading.get_ident()))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_readers_with_equal_cursors_are_given_one_export_and_others_their_own() -> None:
    source = Source()
    one, two = (source.accumulator.reader(name) for name in ("one", "two"))
    plain = source.accumulator.reader("plain", zero_points=False)
    delta = source.accumulator.reader("delta", temporality=Temporality.DELTA)
    source.count(a=1)
    first = one.take()
    assert first is not None
    assert two.take() is first
    assert plain.take() is not first
    assert delta.take() is not first
    one.acknowledge(first)
    source.count(a=1)
    assert one.take() is not two.take()
    for reader in (one, two):
        for _ in range(2):
            taken = reader.take()
            assert taken is not None
            reader.acknowledge(taken)
    source.count(a=1)
    assert one.take() is two.take()


def test_delta_readers_with_equal_cursors_share_too() -> None:
    source = Source()
    one, two = (
        source.accumulator.reader(name, temporality=Temporality.DELTA) for name in ("one", "two")
    )
    for amount in (5, 7):
        source.count(a=amount)
        first, second = one.take(), two.take()
        assert first is not None
        assert first is second
        assert [np.asarray(block.values).tolist() for block in first.blocks] == [[amount]]
        one.acknowledge(first)
        two.acknowledge(first)


def test_readers_of_events_are_given_one_export_until_there_is_more() -> None:
    source = Source()
    one, two = (source.buffer.reader(name) for name in ("one", "two"))
    source.happen(3)
    first = one.take(1000)
    assert first is not None
    assert two.take(1000) is first
    assert two.take(1) is not first
    one.acknowledge(first)
    source.happen(2)
    second, all_ = one.take(1000), two.take(1000)
    assert second is not None
    assert all_ is not None
    assert (second.n_events, all_.n_events) == (2, 5)


def test_two_exporters_send_what_one_of_them_has_encoded() -> None:
    source, counting, sharing = Source(), Counting(n=1), Sharing()
    bench = Bench()
    sent: list[str] = []

    def push(name: str) -> Push:
        def send(body: bytes, timeout_s: float) -> Outcome:
            sent.append(name)
            return Outcome(Result.ACCEPTED)

        route = MetricsRoute(
            encode=counting.encoder, sender=PlainSender(send), interval_s=0.01, shared="key"
        )
        return Push(replace(bench.context(), sharing=sharing), metrics=route)

    pushes = {name: push(name) for name in ("one", "two")}
    for name, each in pushes.items():
        each.start([source.accumulator.reader(name)], [])
    source.count(a=1)
    until(lambda: len(sent) == 2, "both")
    for each in pushes.values():
        each.stop(bench.deadline_ns(5))
    assert (sorted(sent), counting.made) == (["one", "two"], 1)


def test_the_exporters_of_an_agent_share_before_and_after_a_reload(parts: Parts, run: Run) -> None:
    given: list[Sharing] = []

    def exporter(id_: str) -> Instance:
        def make(context: Context) -> Keep:
            given.append(context.sharing)
            return Keep(id_, parts.story)

        return parts.other(ComponentKind.EXPORTER, id_, make)

    receiver = parts.receiver("count", [])
    agent = run(configuration(receiver, exporter("one"), exporter("two")))
    agent.reload(configuration(receiver, exporter("three")))
    until(lambda: len(given) == 3, "the reload")
    assert len(set(given)) == 1


def test_an_export_goes_when_a_newer_snapshot_is_there_and_nobody_holds_it() -> None:
    source = Source()
    reader = source.accumulator.reader("one")
    source.count(a=1)
    taken = reader.take()
    assert taken is not None
    of_export = weakref.ref(taken.blocks[0].time_ns)
    reader.acknowledge(taken)
    del taken
    source.count(a=1)
    gc.collect()
    assert of_export() is None


def lane(
    feed: MetricsFeed, sender: PlainSender, bench: Bench, sharing: Sharing, interval_s: float
) -> MetricsLane:
    report = DeliveryReport(bench.ledger, bench.logger, bench.clock)
    options = LaneOptions(clock=bench.clock, report=report, sharing=sharing, aligned=True)
    route = MetricsRoute(
        encode=lambda: MetricsEncoder({}).requests,
        sender=sender,
        interval_s=interval_s,
        shared="key",
    )
    return MetricsLane("metrics", feed, route, options)


def accept(body: bytes, timeout_s: float) -> Outcome:
    return Outcome(Result.ACCEPTED)


@pytest.mark.parametrize(("begun_s", "phase", "due_s"), [(1, 0.4, 4), (4.5, 0.4, 14), (7, 0.9, 9)])
def test_exporters_that_begin_at_different_times_export_at_the_same_ones(
    begun_s: float, phase: float, due_s: float
) -> None:
    clock = ManualClock()
    clock.advance_to(int(begun_s * S))
    one = lane(MetricsFeed(), PlainSender(accept), Bench(clock), Sharing(phase), 10.0)
    assert one.due_ns == due_s * S


def test_a_request_packed_for_another_is_sent_in_an_encoding_that_the_backend_reads() -> None:
    """One backend reads zstd, the other does not; both exporters are on `auto`."""
    for refuses in ({}, {"zstd": 415}):
        for server in serve(Server()):
            server.refused_encodings = refuses
            target = HttpTarget(server.url, compression=Compression.AUTO)
            with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
                for packed in 2 * [sender.pack(b"points", 1)]:
                    assert sender.send(packed, 5.0).result is Result.ACCEPTED
            used = [got.headers["Content-Encoding"] for got in server.got]
            assert used == (["zstd", "gzip", "gzip"] if refuses else ["zstd", "zstd"])


@pytest.mark.parametrize("compression", [each for each in Compression if each.value != "auto"])
def test_what_is_packed_can_be_looked_into_again(compression: Compression) -> None:
    body = b"points " * 1000
    target = HttpTarget("http://127.0.0.1:1", compression=compression)
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        packed = sender.pack(body, 7)
    assert packed.body() == body
    assert (packed.n_items, packed.raw_bytes) == (7, 7000)
    assert packed.encoding == ("" if compression is Compression.NONE else compression.value)

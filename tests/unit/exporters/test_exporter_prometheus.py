"""prometheus: what a scraper gets, over a real socket, from a real accumulator."""

from __future__ import annotations

import gzip
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from retina_otel.encode.prometheus.escaping import Escaping
from retina_otel.encode.prometheus.formats import Format, Syntax, accepts_gzip
from retina_otel.errors import ConfigError
from retina_otel.exporters.prometheus import COMPONENT, PrometheusExporter, PrometheusSettings
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import Bench, Source
from retina_otel.testing.scrape_protobuf import families, samples

PROTOBUF = Format(Syntax.PROTOBUF, "").content_type
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"


class Running:
    """An exporter with two sources, started on a free port."""

    def __init__(self, delta: bool = False, **settings: Any) -> None:
        self.bench = Bench(id="prometheus")
        self.source, self.second = Source(), Source()
        chosen = PrometheusSettings.model_validate({"endpoint": "127.0.0.1:0", **settings})
        self.exporter = PrometheusExporter(chosen, self.bench.context())
        self.readers = readers = [
            source.accumulator.reader(
                "test",
                temporality=Temporality.DELTA if delta else Temporality.CUMULATIVE,
                zero_points=self.exporter.zero_points,
                stale_markers=self.exporter.stale_markers,
                linger_ns=self.exporter.linger_ns,
            )
            for source in (self.source, self.second)
        ]
        self.exporter.start(readers, [])

    def get(
        self, path: str = "/metrics", method: str = "GET", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.exporter.port, 5)) as client:
            client.request(method, path, headers=headers)
            response = client.getresponse()
            return response, response.read()

    def beside(self, name: str) -> int:
        return self.bench.ledger.report().beside.get(name, 0)

    def scrapes(self) -> int:
        points = self.bench.ledger.report().exports.get("points")
        return points.requests if points else 0

    def booked(self, scrapes: int) -> None:
        """Returns when so many scrapes are booked, which happens after the client has its page."""
        end = time.monotonic() + 10
        while self.scrapes() != scrapes:
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture
def running() -> Iterator[Running]:
    started = Running()
    yield started
    started.exporter.stop(started.bench.deadline_ns(5))


def values(text: str, *, openmetrics: bool = False) -> dict[str, float]:
    families = (parse_openmetrics if openmetrics else parse_text)(text)
    return {
        sample.labels["test_who"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "test_packets_total"
    }


def test_a_scrape_has_the_newest_values_of_all_pipelines(running: Running) -> None:
    running.source.count(a=3, b=5)
    running.second.count(c=7)
    running.source.count(a=30)
    response, body = running.get()
    assert response.headers["Content-Type"] == (
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
    )
    assert values(body.decode()) == {"a": 33, "b": 5, "c": 7}


def test_openmetrics_is_given_to_who_asks_for_it(running: Running) -> None:
    running.source.count(a=3)
    response, body = running.get(Accept=OPENMETRICS)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert values(body.decode(), openmetrics=True) == {"a": 3}


def test_protobuf_is_given_to_who_asks_for_it(running: Running) -> None:
    running.source.count(a=3, b=5)
    response, body = running.get(Accept=f"{PROTOBUF};q=0.9,{OPENMETRICS}")
    assert response.headers["Content-Type"] == PROTOBUF
    found = {each.labels["test_who"]: each.value for each in samples(body) if len(each.labels) > 1}
    assert found == {"a": 3, "b": 5}


def test_names_are_as_the_strategy_says_and_escaped_as_the_scraper_asks() -> None:
    running = Running(translation_strategy="NoTranslation")
    running.source.count(a=3)
    expected = {
        Escaping.ALLOW_UTF8: ("test.packets", "test.who"),
        Escaping.UNDERSCORES: ("test_packets", "test_who"),
        Escaping.DOTS: ("test_dot_packets", "test_dot_who"),
        Escaping.VALUES: ("U__test_2e_packets", "U__test_2e_who"),
    }
    # Twice, and in more namings than are kept.
    for escaping, (name, label) in (*expected.items(), *expected.items()):
        _, body = running.get(Accept=Format(Syntax.PROTOBUF, "", escaping).content_type)
        (sample,) = (each for each in samples(body) if each.name == name)
        assert (sample.labels[label], sample.value) == ("a", 3)
        response, body = running.get(Accept=f"text/plain;version=1.0.0;escaping={escaping.value}")
        assert response.headers["Content-Type"] == (
            f"text/plain; version=1.0.0; charset=utf-8; escaping={escaping.value}"
        )
        utf8 = escaping is Escaping.ALLOW_UTF8
        start = f'{{"{name}",otel_scope_name="test","{label}"="a"}}'
        classic = f'{name}{{otel_scope_name="test",{label}="a"}}'
        assert f"{start if utf8 else classic} 3" in body.decode().splitlines()
    running.exporter.stop(running.bench.deadline_ns(5))


@pytest.mark.parametrize("created", [False, True])
def test_openmetrics_says_when_a_counter_began_if_it_is_told_to(created: bool) -> None:
    running = Running(created_samples=created)
    running.source.count(a=3)
    text = running.get(Accept=OPENMETRICS)[1].decode()
    assert ("test_packets_created{" in text) is created
    assert values(text, openmetrics=True) == {"a": 3}
    assert "_created" not in running.get()[1].decode()
    running.exporter.stop(running.bench.deadline_ns(5))


def test_gzip_is_given_to_who_takes_it_and_says_the_same(running: Running) -> None:
    running.source.count(a=3)
    response, packed = running.get(**{"Accept-Encoding": "gzip"})
    plain_response, plain = running.get(**{"Accept-Encoding": "identity"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert plain_response.headers["Content-Encoding"] is None
    assert gzip.decompress(packed) == plain


def test_a_page_of_many_megabytes_comes_whole_in_any_encoding(running: Running) -> None:
    running.source.count(**{f"series-{i:05d}-{'x' * 50}": i + 1 for i in range(10_000)})
    _, packed = running.get(**{"Accept-Encoding": "gzip"})
    _, plain = running.get()
    assert gzip.decompress(packed) == plain
    assert sum(values(plain.decode()).values()) == 10_000 * 10_001 // 2


def test_a_client_of_http_1_0_gets_the_page_until_the_connection_ends(running: Running) -> None:
    running.source.count(a=3)
    with closing(socket.create_connection(("127.0.0.1", running.exporter.port), 5)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert values(body.decode()) == {"a": 3}


def test_a_request_of_one_line_gets_the_page_and_nothing_else(running: Running) -> None:
    running.source.count(a=3)
    with closing(socket.create_connection(("127.0.0.1", running.exporter.port), 5)) as client:
        client.sendall(b"GET /metrics\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer == running.get()[1]


def test_what_a_scraper_accepts_may_be_said_in_several_lines(running: Running) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", running.exporter.port, 5)) as client:
        client.putrequest("GET", "/metrics", skip_accept_encoding=True)
        for one, other in (("image/png", "br"), (OPENMETRICS, "gzip")):
            client.putheader("Accept", one)
            client.putheader("Accept-Encoding", other)
        client.endheaders()
        response = client.getresponse()
        assert gzip.decompress(response.read()).endswith(b"# EOF\n")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")


def test_names_that_are_no_utf8_make_no_two_points_of_one_series(running: Running) -> None:
    running.source.count(**dict(zip(("x\udcfe", "x\udcff", "x"), (1, 7, 3), strict=True)))
    text = running.get()[1].decode()
    assert [line[-1] for line in text.splitlines() if 'test_who="x' in line] == ["7", "3"]


def test_a_page_that_cannot_be_made_is_told_and_holds_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running(delta=True)
    running.source.count(a=3)
    with pytest.raises(http.client.RemoteDisconnected), caplog.at_level(logging.ERROR):
        running.get()
    running.exporter.stop(running.bench.deadline_ns(5))
    assert [record.getMessage() for record in caplog.records] == ["an answer broke off"]
    assert [reader.holds for reader in running.readers] == [None, None]


def test_a_snapshot_is_rendered_once_for_all_its_scrapers(running: Running) -> None:
    running.source.count(a=3)
    pages = {running.get()[1] for _ in range(3)}
    running.booked(3)
    assert (len(pages), running.beside("renders")) == (1, 1)
    running.source.count(a=4)
    assert values(running.get()[1].decode()) == {"a": 7}
    assert running.beside("renders") == 2


def test_a_snapshot_is_rendered_once_for_each_format(running: Running) -> None:
    running.source.count(a=3)
    for accept in ("", "text/plain;escaping=values", OPENMETRICS, PROTOBUF) * 2:
        running.get(Accept=accept)
    running.booked(8)
    assert running.beside("renders") == 3


def test_a_series_that_ended_is_there_until_others_have_had_time_to_take_it_too(
    running: Running,
) -> None:
    running.source.count(a=3)
    end_ns = running.source.now_ns()
    running.source.accumulator.end_all(end_ns)
    shown = []
    for scrapes, seconds in enumerate((0, 30, 59, 61, 62), start=1):
        running.source.accumulator.snapshot(end_ns + seconds * 10**9)
        shown.append(values(running.get()[1].decode()))
        running.booked(scrapes)
    assert shown == [{"a": 3}] * 4 + [{}]


def test_without_lingering_one_scrape_is_enough_to_see_a_series_off() -> None:
    running = Running(linger="0s")
    running.source.count(a=3)
    running.source.accumulator.end_all(running.source.now_ns())
    assert values(running.get()[1].decode()) == {"a": 3}
    running.booked(1)
    running.source.accumulator.snapshot(running.source.now_ns())
    assert values(running.get()[1].decode()) == {}
    running.exporter.stop(running.bench.deadline_ns(5))


def test_nobody_scraping_means_nothing_is_acknowledged(running: Running) -> None:
    running.source.count(a=3)
    running.get(method="HEAD")
    running.source.accumulator.end_all(running.source.now_ns())
    running.source.accumulator.snapshot(running.source.now_ns())
    assert values(running.get()[1].decode()) == {"a": 3}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_between_scrapes_no_snapshot_is_held(running: Running, method: str) -> None:
    """Whoever held one would keep every attribute set since from being given back."""
    running.source.count(a=3)
    running.get(method=method)
    assert [reader.holds for reader in running.readers] == [None, None]


def test_scrapes_are_booked(running: Running) -> None:
    running.source.count(a=3, b=4)
    running.get()
    running.booked(1)
    report = running.bench.ledger.report()
    assert (report.seen, report.drained, report.difference) == (2, 2, 0)


def test_a_scrape_counts_as_a_request_with_its_points_and_its_size_before_gzip(
    running: Running,
) -> None:
    running.source.count(a=3, b=4)
    _, plain = running.get()
    running.get(**{"Accept-Encoding": "gzip"})
    running.get(method="HEAD")
    running.booked(2)
    counted = running.bench.ledger.report().exports["points"]
    assert (counted.requests, counted.exported) == (2, 4)
    assert (counted.request_bytes, counted.request_failures) == (2 * len(plain), {})


def test_before_the_first_snapshot_the_page_is_there_and_says_who_we_are(running: Running) -> None:
    response, body = running.get()
    assert response.status == 200
    assert b'service_name="retina-otel"' in body
    _, body = running.get(Accept=OPENMETRICS)
    assert [family.name for family in parse_openmetrics(body.decode())] == ["target"]
    _, body = running.get(Accept=PROTOBUF)
    assert [family.name for family in families(body)] == ["target_info"]


def test_the_index_says_where_the_page_is(running: Running) -> None:
    response, body = running.get("/")
    assert (response.status, body) == (200, b"retina-otel: metrics are at /metrics\n")
    response, body = running.get("/nothing")
    assert (response.status, b"/metrics" in body) == (404, True)


def test_head_has_no_body(running: Running) -> None:
    response, body = running.get(method="HEAD")
    assert (response.status, body) == (200, b"")


def test_an_own_path_is_served(running: Running) -> None:
    other = Running(path="/own")
    assert other.get("/own")[0].status == 200
    assert other.get("/metrics")[0].status == 404
    other.exporter.stop(other.bench.deadline_ns(5))


def test_a_port_in_use_is_one_clear_error_with_the_remedy() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match="Address already in use") as error:
            Running(endpoint=endpoint)
    assert endpoint in error.value.message
    assert "exporters.prometheus.endpoint" in error.value.remedy


def test_an_address_that_is_not_of_this_machine_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:1 can't be listened on"):
        Running(endpoint="192.0.2.1:1")


def test_ipv6_is_listened_on() -> None:
    other = Running(endpoint="[::1]:0")
    with closing(http.client.HTTPConnection("::1", other.exporter.port, 5)) as client:
        client.request("GET", "/")
        assert client.getresponse().status == 200
    other.exporter.stop(other.bench.deadline_ns(5))


@pytest.mark.parametrize(
    ("header", "accepted"),
    [("", False), ("gzip", True), ("GZIP;q=1.0, br", True), ("gzip;q=0", False), ("*", True)],
)
def test_gzip_is_negotiated(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_scrapers_that_hang_do_not_keep_others_out_for_longer_than_the_timeout() -> None:
    running = Running(timeout="200ms")
    hanging = [socket.create_connection(("127.0.0.1", running.exporter.port), 5) for _ in range(16)]
    for connection in hanging:
        connection.sendall(b"GET /met")
    for connection in hanging:
        assert connection.recv(1) == b""
        connection.close()
    assert running.get()[0].status == 200
    running.exporter.stop(running.bench.deadline_ns(5))


def test_scrapes_at_once_all_get_the_page(running: Running) -> None:
    running.source.count(**{f"s{i}": 1 for i in range(1000)})
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(running.get()[1])) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(bodies), len(set(bodies)), running.beside("renders")) == (10, 1, 1)


def test_after_a_stop_the_port_is_free_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        first = Running()
    port = first.exporter.port
    assert f"http://127.0.0.1:{port}/metrics" in caplog.text
    first.exporter.stop(first.bench.deadline_ns(5))
    again = Running(endpoint=f"127.0.0.1:{port}")
    again.exporter.stop(again.bench.deadline_ns(5))


def test_every_setting_is_described() -> None:
    properties = COMPONENT.Settings.model_json_schema()["properties"]
    assert [name for name, field in properties.items() if "description" not in field] == []

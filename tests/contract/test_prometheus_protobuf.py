"""A scrape in protobuf, read by a strict decoder, says the same as one in text."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from retina_otel.encode.prometheus.escaping import Escaping, Naming
from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.encode.prometheus.protobuf import ProtobufRenderer
from retina_otel.encode.prometheus.text import render
from retina_otel.errors import RetinaError
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.scrape import Sample
from retina_otel.testing.scrape_protobuf import families, samples

SCOPE = "retina_otel.receivers.flows"
RESOURCE = {"service.name": "retina-otel", "k8s.node.name": 'a "node" \\ of\nmine'}
START_NS = 1_790_000_000_123_456_789

Flat = dict[tuple[str, frozenset[tuple[str, str]]], str]


def page(blocks: Iterable[PointBlock], naming: Naming | None = None) -> bytes:
    return b"".join(ProtobufRenderer(RESOURCE, naming).chunks(blocks))


def flat(found: Iterable[Sample]) -> Flat:
    out: Flat = {}
    for sample in found:
        key = (sample.name, frozenset(pair for pair in sample.labels.items() if pair[1]))
        assert key not in out
        out[key] = repr(float(sample.value))
    return out


def of_text(text: bytes, openmetrics: bool) -> Flat:
    parsed = (parse_openmetrics if openmetrics else parse_text)(text.decode())
    return flat(
        Sample(sample.name, sample.labels, sample.value)
        for family in parsed
        for sample in family.samples
        if not sample.name.endswith("_created")
    )


def without_total(found: Flat) -> Flat:
    """The parser of text gives a `_total` to counters that have none."""
    return {(name.removesuffix("_total"), labels): value for (name, labels), value in found.items()}


def world() -> list[PointBlock]:
    """Each kind, names that need translation, many rows of many widths."""
    ends = [{"source.k8s.pod.name": f"pod-{'x' * (i % 150)}-{i}"} for i in range(400)]
    return [
        point_block(
            Metric("retina.flow.io", Kind.COUNTER, "By", "Bytes.", scope=SCOPE),
            [Point(2 ** (i % 53) + i, ends[i], start_ns=START_NS + i % 3) for i in range(400)],
        ),
        point_block(
            Metric("größe.7", Kind.GAUGE, "1", "Size.", scope="third", integer=False),
            [Point(0.5, ends[0], own={"straße": "é", "a-b": "1"}), Point(math.nan, ends[1])],
        ),
        point_block(Metric("up", Kind.UPDOWN, "1", "", scope=SCOPE), [Point(-3)]),
        point_block(Metric("bare", Kind.GAUGE, "", ""), [Point(1), Point(2, own={"a": "b"})]),
        point_block(
            Metric("rtt", Kind.HISTOGRAM, "s", "Time.", scope=SCOPE, boundaries=(0.5, 2.0)),
            [
                Point(9.5, ends[1], buckets=(1, 0, 300)),
                Point(0.0, ends[2], buckets=(0, 0, 0)),
                Point(1.0, ends[3], buckets=(1, 2, 4), no_value=True),
            ],
        ),
        point_block(Metric("gone", Kind.COUNTER, "", "", scope=SCOPE), [Point(1, no_value=True)]),
    ]


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("escaping", list(Escaping))
@pytest.mark.parametrize("strategy", list(TranslationStrategy))
def test_protobuf_text_and_openmetrics_say_the_same_under_every_naming(
    strategy: TranslationStrategy, escaping: Escaping, openmetrics: bool
) -> None:
    naming = Naming(strategy, escaping)
    in_text = of_text(render(world(), RESOURCE, openmetrics, naming), openmetrics)
    if not strategy.adds_suffixes:
        in_text = without_total(in_text)
    assert flat(samples(page(world(), naming))) == in_text


def test_families_have_their_type_help_and_unit_and_series_their_start() -> None:
    found = {family.name: family for family in families(page(world()))}
    assert {name: (f.type, f.help, f.unit, len(f.series)) for name, f in found.items()} == {
        "target_info": ("gauge", "Target metadata", "", 1),
        "retina_flow_io_bytes_total": ("counter", "Bytes.", "bytes", 400),
        "gr_e_7_ratio": ("gauge", "Size.", "ratio", 2),
        "up": ("gauge", "", "", 1),
        "bare": ("gauge", "", "", 2),
        "rtt_seconds": ("histogram", "Time.", "seconds", 2),
    }
    counters = found["retina_flow_io_bytes_total"].series
    assert [series.created_ns for series in counters] == [START_NS + i % 3 for i in range(400)]
    assert found["up"].series[0].created_ns is None
    assert found["rtt_seconds"].series[0].created_ns == 1_000_000_000
    assert found["rtt_seconds"].series[0].buckets == ((0.5, 1), (2.0, 1))


@given(data=st.data())
@settings(deadline=None)
def test_any_number_label_and_start_survives(data: st.DataObject) -> None:
    texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
    rows = data.draw(
        st.dictionaries(texts, st.tuples(st.floats(), st.integers(0, 2**63 - 1)), min_size=1)
    )
    metric = Metric("m", Kind.COUNTER, "", data.draw(texts), scope=SCOPE, integer=False)
    points = [Point(value, {"t": text}, start_ns=at) for text, (value, at) in rows.items()]
    (family,) = families(b"".join(ProtobufRenderer({}).chunks([point_block(metric, points)])))
    assert family.help == metric.brief
    found = {
        series.labels["t"]: (repr(series.value), series.created_ns) for series in family.series
    }
    assert found == {text: (repr(value), at) for text, (value, at) in rows.items()}


@pytest.mark.parametrize("openmetrics", [False, True])
@given(data=st.data())
@settings(deadline=None)
def test_any_name_is_the_same_in_text_and_in_protobuf(
    openmetrics: bool, data: st.DataObject
) -> None:
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=9)
    words = texts.map("a{}".format)
    names = data.draw(st.dictionaries(words, st.dictionaries(words, texts), min_size=1, max_size=4))
    scope = data.draw(texts)
    naming = Naming(
        data.draw(st.sampled_from(TranslationStrategy)), data.draw(st.sampled_from(Escaping))
    )
    blocks = [
        point_block(Metric(name, Kind.GAUGE, "", "", scope=scope), [Point(1, own=attributes)])
        for name, attributes in names.items()
    ]
    in_text = of_text(render(blocks, RESOURCE, openmetrics, naming), openmetrics)
    assert flat(samples(page(blocks, naming))) == in_text


def test_without_points_the_page_is_the_target_or_nothing() -> None:
    assert [family.name for family in families(page([]))] == ["target_info"]
    assert b"".join(ProtobufRenderer({}).chunks([])) == b""


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\x05\x0a", "cut off"),
        (b"\x03\x0a\x01m", "field 3 is missing"),
        (b"\x05\x0a\x01m\x18\x01", "no series"),
        (b"\x05\x0a\x01m\x18\x02", "no type 2"),
        (b"\x07\x0a\x01m\x18\x01\x30\x01", "no field 6"),
        (b"\x07\x0a\x01m\x18\x01\x18\x01", "field 3 is there twice"),
        (b"\x06\x0a\x01m\x18\x81\x00", "longer"),
        (b"\x0a\x0a\x01m\x18\x01\x22\x02\x12\x00\x00", "no field 0"),
        (b"\x09\x0a\x01m\x18\x01\x22\x02\x12\x00", "field 1 is missing"),
        (b"\x09\x0a\x01m\x18\x00\x22\x02\x12\x00", "no field 2"),
    ],
)
def test_the_decoder_refuses_what_the_schema_does_not_say(bad: bytes, why: str) -> None:
    with pytest.raises(RetinaError, match=why):
        families(bad)


def test_the_decoder_refuses_a_family_and_a_series_that_are_there_twice() -> None:
    once = page([point_block(Metric("m", Kind.GAUGE, "", "", scope=SCOPE), [Point(1)])])
    with pytest.raises(RetinaError, match="twice"):
        families(once + once)

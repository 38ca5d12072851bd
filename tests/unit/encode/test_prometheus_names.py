"""Names under each translation strategy: the table was made by Prometheus' own translator."""

import pytest

from retina_otel.encode.prometheus.names import (
    TranslationStrategy,
    family_name,
    label_name,
    metric_name,
)
from retina_otel.model.signals import Kind

STRATEGIES = (
    TranslationStrategy.UNDERSCORE_ESCAPING_WITH_SUFFIXES,
    TranslationStrategy.UNDERSCORE_ESCAPING_WITHOUT_SUFFIXES,
    TranslationStrategy.NO_UTF8_ESCAPING_WITH_SUFFIXES,
    TranslationStrategy.NO_TRANSLATION,
)


@pytest.mark.parametrize(
    ("name", "unit", "kind", "names"),
    [
        (
            "retina.flow.io",
            "By",
            Kind.COUNTER,
            (
                "retina_flow_io_bytes_total",
                "retina_flow_io",
                "retina.flow.io_bytes_total",
                "retina.flow.io",
            ),
        ),
        (
            "io.rate",
            "By/s",
            Kind.GAUGE,
            ("io_rate_bytes_per_second", "io_rate", "io.rate_bytes_per_second", "io.rate"),
        ),
        ("packets", "{packet}", Kind.UPDOWN, ("packets", "packets", "packets", "packets")),
        ("share", "1", Kind.GAUGE, ("share_ratio", "share", "share_ratio", "share")),
        ("share", "1", Kind.COUNTER, ("share_total", "share", "share_total", "share")),
        (
            "total.requests.total",
            "1",
            Kind.COUNTER,
            (
                "requests_total",
                "total_requests_total",
                "total.requests_total",
                "total.requests.total",
            ),
        ),
        (
            "wait.seconds",
            "s",
            Kind.HISTOGRAM,
            ("wait_seconds", "wait_seconds", "wait.seconds", "wait.seconds"),
        ),
        ("wait", "ms", Kind.HISTOGRAM, ("wait_milliseconds", "wait", "wait_milliseconds", "wait")),
        ("used", "%", Kind.GAUGE, ("used_percent", "used", "used_percent", "used")),
        ("2xx", "", Kind.COUNTER, ("_2xx_total", "_2xx", "2xx_total", "2xx")),
        ("größe", "By", Kind.GAUGE, ("gr_e_bytes", "gr_e", "größe_bytes", "größe")),
        ("a__b", "", Kind.GAUGE, ("a_b", "a__b", "a__b", "a__b")),
        ("x", "foo&", Kind.GAUGE, ("x_foo_", "x", "x_foo&", "x")),
        ("x", "&/&", Kind.GAUGE, ("x", "x", "x_&_per_&", "x")),
        ("é", "", Kind.GAUGE, ("", "", "é", "é")),
        ("_", "", Kind.GAUGE, ("", "_", "_", "_")),
    ],
)
def test_a_metric_has_the_name_that_the_strategy_gives_it(
    name: str, unit: str, kind: Kind, names: tuple[str, str, str, str]
) -> None:
    made = tuple(metric_name(name, unit, kind, strategy) for strategy in STRATEGIES)
    assert made == names


@pytest.mark.parametrize(
    ("key", "escaped", "as_it_is"),
    [
        ("source.k8s.pod.name", "source_k8s_pod_name", "source.k8s.pod.name"),
        ("a..b", "a_b", "a..b"),
        ("7th", "key_7th", "7th"),
        ("_x", "_x", "_x"),
        ("__a.b__", "__a_b__", "__a.b__"),
        ("größe", "gr_e", "größe"),
        ("é", "", "é"),
        ("__", "", ""),
        ("____", "", ""),
        ("le", "exported_le", "exported_le"),
        ("__name__", "exported___name__", "exported___name__"),
        ("otel.scope.name", "exported_otel_scope_name", "otel.scope.name"),
    ],
)
def test_an_attribute_has_the_label_that_the_strategy_gives_it(
    key: str, escaped: str, as_it_is: str
) -> None:
    for strategy in STRATEGIES:
        assert label_name(key, strategy) == (escaped if strategy.escapes else as_it_is)


def test_a_counters_family_is_its_name_without_total_where_there_is_one() -> None:
    families = [family_name("a.b", "s", Kind.COUNTER, strategy) for strategy in STRATEGIES]
    assert families == ["a_b_seconds", "a_b", "a.b_seconds", "a.b"]
    assert family_name("a.total", "", Kind.GAUGE) == "a_total"

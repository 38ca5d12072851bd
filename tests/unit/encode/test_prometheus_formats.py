"""Which format a scraper gets for what its Accept header says."""

import pytest

from retina_otel.encode.prometheus.escaping import Escaping, Naming
from retina_otel.encode.prometheus.formats import Format, Syntax, negotiate
from retina_otel.encode.prometheus.names import TranslationStrategy

TEXT = Format()
UTF8_TEXT = Format(Syntax.TEXT, "1.0.0", Escaping.ALLOW_UTF8)
OPENMETRICS = Format(Syntax.OPENMETRICS, "1.0.0")
UTF8_OPENMETRICS = Format(Syntax.OPENMETRICS, "1.0.0", Escaping.ALLOW_UTF8)
PROTOBUF = Format(Syntax.PROTOBUF, "")
PROTO = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/*;q=0.1", TEXT),
        ("image/png", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.3", TEXT),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", UTF8_TEXT),
        ("text/plain;escaping=dots", Format(escaping=Escaping.DOTS)),
        ("text/plain;escaping=other", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text ; Version = 1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", Format(Syntax.OPENMETRICS, "0.0.1")),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", TEXT),
        ("text/plain;q=0.9,application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text,text/plain", OPENMETRICS),
        ("text/plain,application/openmetrics-text", TEXT),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, UTF8_OPENMETRICS),
        (PROTO, PROTOBUF),
        (PROTO.replace("delimited", '"delimited"'), PROTOBUF),
        (PROTO.replace("delimited", "text"), TEXT),
        ("application/vnd.google.protobuf", TEXT),
        (f"{PROTO};escaping=values", Format(Syntax.PROTOBUF, "", Escaping.VALUES)),
        (f"{PROTO};q=0.7,{PROMETHEUS_3}", Format(Syntax.PROTOBUF, "", Escaping.ALLOW_UTF8)),
        (f"{PROTO};q=0.2,{PROMETHEUS_2}", OPENMETRICS),
        (",;,q=1,;=", TEXT),
    ],
)
def test_a_scraper_gets_what_it_likes_best_of_what_there_is(accept: str, format_: Format) -> None:
    assert negotiate(accept) == format_


@pytest.mark.parametrize(
    ("format_", "content_type"),
    [
        (TEXT, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"),
        (
            UTF8_OPENMETRICS,
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
        (
            PROTOBUF,
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; "
            "encoding=delimited; escaping=underscores",
        ),
    ],
)
def test_a_content_type_is_told_in_the_words_in_which_it_is_asked_for(
    format_: Format, content_type: str
) -> None:
    assert format_.content_type == content_type
    assert negotiate(content_type) == format_


@pytest.mark.parametrize(
    ("name", "underscores", "dots", "values"),
    [
        ("plain_name:x", "plain_name:x", "plain_name:x", "plain_name:x"),
        ("a.b_c", "a_b_c", "a_dot_b__c", "U__a_2e_b__c"),
        ("7th", "_th", "__th", "U___37_th"),
        ("größe", "gr__e", "gr____e", "U__gr_f6__df_e"),
        ("", "", "", ""),
    ],
)
def test_names_are_escaped_as_the_scheme_says(
    name: str, underscores: str, dots: str, values: str
) -> None:
    assert Escaping.ALLOW_UTF8.apply(name) == name
    assert Escaping.UNDERSCORES.apply(name) == underscores
    assert Escaping.DOTS.apply(name) == dots
    assert Escaping.VALUES.apply(name) == values


def test_a_label_has_no_colons_unlike_a_metric() -> None:
    assert Escaping.UNDERSCORES.apply("a:b", label=True) == "a_b"
    assert Escaping.VALUES.apply("a:b", label=True) == "U__a_3a_b"


def test_schemes_that_change_no_name_of_a_strategy_share_its_pages() -> None:
    strategy = TranslationStrategy.UNDERSCORE_ESCAPING_WITH_SUFFIXES
    assert Naming(strategy, Escaping.VALUES) == Naming(strategy, Escaping.ALLOW_UTF8)
    kept = TranslationStrategy.NO_TRANSLATION
    assert Naming(kept, Escaping.VALUES) != Naming(kept, Escaping.ALLOW_UTF8)

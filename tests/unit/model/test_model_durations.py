"""Durations and sizes as people write them in configuration."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from retina_otel.model.durations import (
    ByteSize,
    Duration,
    PositiveDuration,
    format_byte_size,
    format_duration,
    parse_byte_size,
    parse_duration,
)


class Example(BaseModel):
    interval: PositiveDuration = Field(default="15s", validate_default=True)
    pause: Duration = Field(default="0", validate_default=True)
    size: ByteSize = Field(default="4MiB", validate_default=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15.0), ("500ms", 0.5), ("1m30s", 90.0), ("1.5h", 5400.0), ("0", 0.0), ("20us", 2e-5)],
)
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["15", "", "s", "15 parsecs", "-1s", 15, True, None])
def test_a_duration_without_a_unit_is_refused_with_what_would_be_right(value: object) -> None:
    with pytest.raises(ValidationError, match="15s"):
        Example.model_validate({"interval": value})


def test_zero_is_a_duration_only_where_nothing_divides_by_it() -> None:
    assert Example.model_validate({"pause": 0}).pause == 0.0
    with pytest.raises(ValidationError, match="more than 0"):
        Example.model_validate({"interval": "0s"})


@pytest.mark.parametrize(
    ("text", "size"), [("4MiB", 4 << 20), ("500KB", 500_000), ("17", 17), ("1.5 KiB", 1536)]
)
def test_a_size_is_read_with_binary_and_decimal_units(text: str, size: int) -> None:
    assert parse_byte_size(text) == size


@pytest.mark.parametrize("value", ["4 parsecs", "-1", -1, 1.5, "MiB", "4mib"])
def test_a_size_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="4MiB"):
        Example.model_validate({"size": value})


def test_settings_written_out_are_read_back_equal() -> None:
    written = Example().model_dump()
    assert written == {"interval": "15s", "pause": "0", "size": "4MiB"}
    assert Example.model_validate(written) == Example()


def test_the_schema_says_that_durations_are_strings() -> None:
    schema = Example.model_json_schema()
    assert schema["properties"]["interval"]["type"] == "string"
    assert schema["properties"]["interval"]["default"] == "15s"


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**15))
def test_every_duration_in_whole_nanoseconds_survives_writing(ns: int) -> None:
    assert parse_duration(format_duration(ns / 1e9)) == pytest.approx(ns / 1e9, abs=1e-9)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=2**53))
def test_every_size_survives_writing(size: int) -> None:
    assert parse_byte_size(format_byte_size(size)) == size

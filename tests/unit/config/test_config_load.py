"""Configuration from file < environment < --set: what is read, and what each mistake is told as."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from retina_otel.component import ComponentKind
from retina_otel.config.document import parse_document
from retina_otel.config.load import Configuration, load
from retina_otel.config.problems import CombinedConfigError
from retina_otel.config.registry import Offer, Registry
from retina_otel.config.settings import LogLevel
from retina_otel.errors import ConfigError
from retina_otel.model.text_files import MAX_BYTES

THIRD_PARTY = Path(__file__).parents[2] / "third_party"
GOOD = """
receivers:
  tally: {counts: [3, 5]}
exporters:
  lines: {path: /tmp/out, interval: 2s}
service:
  interval: 1s
  pipelines:
    metrics: {receivers: [tally], exporters: [lines]}
"""


def _offer(kind: ComponentKind, type_: str, target: str, package: str = "tally") -> Offer:
    return Offer(
        kind, type_, package, "1.2.3", EntryPoint(type_, target, f"retina_otel.{kind.value}s")
    )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    return Registry(
        [
            _offer(ComponentKind.RECEIVER, "tally", "retina_otel_tally.receiver:COMPONENT"),
            _offer(ComponentKind.EXPORTER, "lines", "retina_otel_tally.exporter:COMPONENT"),
            _offer(ComponentKind.RECEIVER, "broken", "retina_otel_tally.nowhere:COMPONENT"),
            _offer(ComponentKind.RECEIVER, "wrong", "retina_otel_tally.receiver:COUNTED"),
            _offer(ComponentKind.PROCESSOR, "liar", "retina_otel_tally.receiver:COMPONENT"),
        ]
    )


class Loading:
    """Loads a text as a file, with an environment and overrides."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry = registry
        self.path = folder / "agent.yaml"

    def __call__(
        self, text: str, environment: dict[str, str] | None = None, *overrides: str
    ) -> Configuration:
        self.path.write_text(text)
        return load(
            self.registry, path=self.path, environment=environment or {}, overrides=overrides
        )

    def refused(self, text: str, environment: dict[str, str] | None = None, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self(text, environment, *overrides)
        message = str(caught.value)
        assert "\n" not in message
        return message.replace(str(self.path), "FILE")


@pytest.fixture
def loading(registry: Registry, tmp_path: Path) -> Loading:
    return Loading(registry, tmp_path)


def test_a_good_file_gives_settings_of_the_components_own_types(loading: Loading) -> None:
    configuration = loading(GOOD)
    receiver = configuration.receivers["tally"]
    assert type(receiver.settings).__name__ == "TallySettings"
    assert receiver.settings.model_dump() == {"counts": [3, 5], "colour": "red"}
    assert configuration.exporters["lines"].settings.model_dump()["interval"] == "2s"
    assert configuration.service.interval == 1.0
    assert configuration.service.pipelines["metrics"].cardinality.limit == 20_000
    assert configuration.warnings == ()


def test_environment_wins_over_file_and_set_over_environment(loading: Loading) -> None:
    environment = {
        "RETINA_OTEL__RECEIVERS__TALLY__COLOUR": "blue",
        "RETINA_OTEL__RECEIVERS__TALLY__COUNTS": "[7, 11]",
        "RETINA_OTEL__SERVICE__INTERVAL": "3s",
        "UNRELATED": "x",
    }
    configuration = loading(GOOD, environment, "service.interval=4s", "receivers.tally.counts=[1]")
    assert configuration.receivers["tally"].settings.model_dump() == {
        "counts": [1],
        "colour": "blue",
    }
    assert configuration.service.interval == 4.0


def test_environment_reaches_an_instance_with_a_name(loading: Loading) -> None:
    text = GOOD.replace("tally", "tally/up-link")
    configuration = loading(text, {"RETINA_OTEL__RECEIVERS__TALLY_UP_LINK__COLOUR": "green"})
    assert configuration.receivers["tally/up-link"].settings.model_dump()["colour"] == "green"


def test_a_level_may_be_written_in_capitals(loading: Loading) -> None:
    service = loading(GOOD, {}, "service.telemetry.logs.level=WARN").service
    assert service.telemetry.logs.level is LogLevel.WARN


def test_an_empty_component_has_its_defaults(loading: Loading) -> None:
    configuration = loading(GOOD.replace("{counts: [3, 5]}", ""))
    assert configuration.receivers["tally"].settings.model_dump()["counts"] == []


def test_words_that_yaml_1_1_would_bend_stay_words(loading: Loading) -> None:
    for word in ("off", "no", "on", "15:30", "2026-11-21", "010"):
        configuration = loading(GOOD.replace("counts: [3, 5]", f"colour: {word}"))
        assert configuration.receivers["tally"].settings.model_dump()["colour"] == word


@pytest.mark.parametrize(
    ("written", "environment", "read"),
    [
        ("'${env:COLOUR}'", {"COLOUR": "blue"}, "blue"),
        ("'${COLOUR}'", {"COLOUR": "blue"}, "blue"),
        ("'light ${env:COLOUR}!'", {"COLOUR": "blue"}, "light blue!"),
        ("'${env:COLOUR}'", {"COLOUR": "12345"}, "12345"),
        ("'${env:COLOUR:-grey}'", {}, "grey"),
        ("'${env:COLOUR:-grey}'", {"COLOUR": ""}, "grey"),
        ("'${env:COLOUR:-}'", {}, ""),
        ("'${env:COLOUR:-http://h:4318}'", {}, "http://h:4318"),
        ("'$${env:COLOUR}'", {}, "${env:COLOUR}"),
        ("a$b", {}, "a$b"),
    ],
)
def test_variables_are_expanded_as_the_collector_does(
    loading: Loading, written: str, environment: dict[str, str], read: str
) -> None:
    configuration = loading(GOOD.replace("counts: [3, 5]", f"colour: {written}"), environment)
    assert configuration.receivers["tally"].settings.model_dump()["colour"] == read


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "counts:",
            "count:",
            "receivers.tally.count: unknown key (FILE:3). Did you mean 'receivers.tally.counts'?",
        ),
        (
            "receivers:\n",
            "recievers:\n",
            "recievers: unknown key (FILE:2). Did you mean 'receivers'?",
        ),
        (
            "interval: 1s",
            "intervall: 1s",
            "service.intervall: unknown key (FILE:7). Did you mean 'service.interval'?",
        ),
        (
            "metrics: {receivers",
            "metrics: {zzz: 1, receivers",
            "service.pipelines.metrics.zzz: unknown key (FILE:9). Keys of service.pipelines."
            "metrics: attributes, cardinality, event_buffer, expiry, exporters, processors, "
            "receivers.",
        ),
        (
            "[3, 5]",
            "[3, x]",
            "receivers.tally.counts.1: 'x' given, expected a valid integer, "
            "unable to parse string as an integer (FILE:3)",
        ),
        (
            "[3, 5]",
            "{a: 1}",
            "receivers.tally.counts: a mapping given, expected a valid list (FILE:3)",
        ),
        (
            "interval: 1s",
            "interval: 5",
            "service.interval: 5 given, but 5 has no unit: "
            'write a duration as "15s" or "500ms" (FILE:7)',
        ),
        (
            "tally: {counts: [3, 5]}",
            "tally: 5",
            "receivers.tally: 5 given, expected a mapping (FILE:3)",
        ),
        (
            "path: /tmp/out, ",
            "",
            "exporters.lines.path: required, but not set (FILE:5). Set exporters.lines.path.",
        ),
        (
            "receivers: [tally]",
            "receivers: [taly]",
            "service.pipelines.metrics.receivers: 'taly' is not defined under receivers (FILE:9). "
            "Did you mean 'tally'?",
        ),
        (
            "tally:",
            "tallly:",
            "receivers.tallly: there is no receiver of type 'tallly' (FILE:3). "
            "Did you mean 'tally'?",
        ),
        (
            "metrics: {",
            "traces: {",
            "service.pipelines.traces: unknown signal 'traces' (FILE:9). "
            "Known here: logs, metrics.",
        ),
        (
            "receivers: [tally]",
            "receivers: []",
            "service.pipelines.metrics.receivers: a list given, but list should have at least "
            "1 item after validation, not 0 (FILE:9)",
        ),
        (
            "receivers: [tally]",
            "receivers: [tally, tally]",
            "service.pipelines.metrics.receivers: 'tally' stands twice (FILE:9)",
        ),
        (
            "counts: [3, 5]",
            "colour: '${env:COLOR}'",
            "receivers.tally.colour: FILE:3: environment variable COLOR is not set. "
            "Set COLOR, or give a default: ${env:COLOR:-value}. Did you mean 'COLOUR'?",
        ),
        (
            "counts: [3, 5]",
            "colour: '${file:/x}'",
            "receivers.tally.colour: FILE:3: ${file:/x}: unknown source 'file'. "
            "Only ${env:NAME} and ${env:NAME:-default} are expanded; write $$ for a dollar sign.",
        ),
        (
            "  tally: {counts: [3, 5]}",
            "  tally: {}\n  tally: {}",
            "receivers.tally: FILE:4: the key stands twice, first in line 3. Remove one of them.",
        ),
        (
            "[3, 5]",
            "[3, 5",
            "FILE is not valid YAML: line 3, column 24: expected ',' or ']', but got '}'. "
            "Check indentation and quotes there.",
        ),
    ],
)
def test_each_mistake_is_one_line_with_its_place_and_remedy(
    loading: Loading, old: str, new: str, message: str
) -> None:
    assert GOOD.count(old) == 1
    assert loading.refused(GOOD.replace(old, new), {"COLOUR": "blue"}) == message


def test_mistakes_in_the_environment_and_in_overrides_name_their_source(loading: Loading) -> None:
    assert loading.refused(GOOD, {"RETINA_OTEL__RECEIVERS__TALLY__COLOR": "x"}) == (
        "receivers.tally.color: unknown key (environment). Did you mean 'receivers.tally.colour'?"
    )
    assert loading.refused(GOOD, {}, "service.interval=true").startswith(
        "service.interval: 'true' given, but 'true' is not a duration"
    )
    assert loading.refused(GOOD, {}, "service") == (
        "--set service: expected KEY.KEY=VALUE. For example --set service.interval=1s."
    )
    assert loading.refused(GOOD, {}, "exporters.lines.=hunter2") == (
        "--set exporters.lines.=...: expected KEY.KEY=VALUE. For example --set service.interval=1s."
    )
    assert loading.refused(GOOD, {"RETINA_OTEL__SERVCE__INTERVAL": "1s"}) == (
        "servce: unknown key (environment). Did you mean 'service'?"
    )


def test_several_mistakes_are_told_together(loading: Loading) -> None:
    text = GOOD.replace("counts", "count").replace("interval: 1s", "intervall: 1s")
    with pytest.raises(CombinedConfigError) as caught:
        loading(text)
    assert sorted(error.path for error in caught.value.errors) == [
        "receivers.tally.count",
        "service.intervall",
    ]


def test_a_component_that_carries_no_logs_is_refused_in_a_logs_pipeline(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from retina_otel_tally import exporter

    only_metrics = dataclasses.replace(exporter.COMPONENT, signals=frozenset({"metrics"}))
    monkeypatch.setattr(exporter, "COMPONENT", only_metrics)
    assert loading.refused(GOOD.replace("metrics: {", "logs: {")) == (
        "service.pipelines.logs.exporters: the exporter 'lines' can't stand in a logs pipeline "
        "(FILE:9). It carries metrics."
    )


def test_what_is_defined_but_not_used_is_a_warning_and_does_not_run(loading: Loading) -> None:
    configuration = loading(GOOD.replace("  tally", "  tally/b: {}\n  tally"))
    assert list(configuration.receivers) == ["tally"]
    assert configuration.warnings == (
        f"receivers.tally/b is defined but not used ({loading.path}:3)",
    )


def test_an_exporter_faster_than_the_collection_is_a_warning(loading: Loading) -> None:
    configuration = loading(GOOD.replace("interval: 1s", "interval: 3s"))
    assert configuration.warnings == (
        "exporters.lines.interval is shorter than service.interval: it sends some values twice",
    )


def test_a_broken_package_is_one_line_and_harms_only_who_asks_for_it(loading: Loading) -> None:
    loading(GOOD)
    assert loading.refused(GOOD.replace("tally:", "broken:")) == (
        "receivers.broken: the receiver 'broken' of package tally 1.2.3 can't be imported: "
        "ModuleNotFoundError: No module named 'retina_otel_tally.nowhere' (FILE:3). "
        "Repair or uninstall tally."
    )
    assert loading.refused(GOOD.replace("tally:", "wrong:")) == (
        "receivers.wrong: the receiver 'wrong' of package tally 1.2.3 is broken: "
        "retina_otel_tally.receiver:COUNTED is a Metric, not a Component (FILE:3). "
        "Repair or uninstall tally."
    )
    assert "it calls itself receiver 'tally'" in loading.refused(GOOD + "processors: {liar: {}}\n")


def test_two_packages_with_one_name_are_refused_only_when_it_is_used(
    registry: Registry, tmp_path: Path
) -> None:
    twice = Registry(
        [
            *registry.offers(),
            _offer(ComponentKind.RECEIVER, "broken", "other:COMPONENT", package="other"),
        ]
    )
    loading = Loading(twice, tmp_path)
    loading(GOOD)
    assert "is declared by other and tally" in loading.refused(GOOD.replace("tally:", "broken:"))


def test_unreadable_files_are_one_line(loading: Loading, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.yaml"
    with pytest.raises(ConfigError, match="can't be read: no such file or directory"):
        load(loading.registry, path=missing, environment={})
    with pytest.raises(ConfigError, match="can't be read: is a directory"):
        load(loading.registry, path=tmp_path, environment={})
    loading.path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(loading.registry, path=loading.path, environment={})


def test_a_path_that_leads_to_no_regular_file_is_refused_at_once(
    loading: Loading, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/zero"), Path("/dev/null"), tmp_path / "fifo"):
        with pytest.raises(ConfigError) as caught:
            load(loading.registry, path=path, environment={})
        assert caught.value.message == f"{path} can't be read: it is not a regular file"


def test_a_file_beyond_the_bound_is_refused(loading: Loading) -> None:
    loading.path.write_text(GOOD)
    os.truncate(loading.path, MAX_BYTES + 1)
    with pytest.raises(ConfigError) as caught:
        load(loading.registry, path=loading.path, environment={})
    assert caught.value.message == f"{loading.path} can't be read: it is larger than 16 MiB"


def test_a_file_that_is_not_a_mapping_is_refused(loading: Loading) -> None:
    assert loading.refused("- 1\n").startswith("FILE holds a list, expected a mapping.")
    assert loading.refused("receivers: [tally]\n") == "receivers: a mapping is expected (FILE:1)"
    assert "service: required, but not set" in loading.refused("")
    assert "not valid YAML" in loading.refused("a: !!python/object:os.system {}\n")
    assert "not valid YAML" in loading.refused("a: \x07\n")


def test_a_secret_is_not_shown_in_an_error(registry: Registry) -> None:
    from retina_otel.config.problems import translate

    class Tree(BaseModel):
        headers: dict[str, int]

    document = parse_document("headers: {authorization: hunter2}", "f", {})
    with pytest.raises(ValidationError) as caught:
        Tree(**document.data)
    [error] = translate(caught.value, Tree, [document])
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("url", ["ftp://me:hunter2@host/", "host//x?token=hunter2"])
def test_an_endpoint_in_an_error_does_not_show_what_may_be_secret(url: str) -> None:
    from retina_otel.config.problems import translate
    from retina_otel.exporters.otlp_http import OtlpHttpSettings

    document = parse_document(f"endpoint: {url}", "f", {})
    with pytest.raises(ValidationError) as caught:
        OtlpHttpSettings(**document.data)
    [error] = translate(caught.value, OtlpHttpSettings, [document])
    assert str(error) == (
        "endpoint: a URL that is not shown given, but it is no http or https URL: "
        "write http://host:4318 or https://host:4318 (f:1)"
    )


def test_deep_nesting_is_an_error_and_not_a_crash(loading: Loading) -> None:
    assert "nested too deeply" in loading.refused("a: " + "[" * 5000 + "]" * 5000)


def test_the_preview_of_names_has_a_variable_of_its_own(loading: Loading) -> None:
    key = "RETINA_OTEL__SERVICE__TELEMETRY__SEMCONV_PREVIEW"
    assert not loading(GOOD).service.telemetry.semconv_preview
    variable = {"RETINA_OTEL_SEMCONV_PREVIEW": "true"}
    assert loading(GOOD, variable).service.telemetry.semconv_preview
    assert not loading(GOOD, {**variable, key: "false"}).service.telemetry.semconv_preview
    assert "semconv_preview: 'maybe' given" in loading.refused(
        GOOD, {"RETINA_OTEL_SEMCONV_PREVIEW": "maybe"}
    )

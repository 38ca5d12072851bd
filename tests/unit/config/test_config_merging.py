"""Several configuration files, merged as a Collector merges them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from retina_otel.cli.validate import command
from retina_otel.config.load import Configuration, load
from retina_otel.config.registry import Registry
from retina_otel.errors import ConfigError

BASE = """
receivers: {flows: {}}
exporters:
  debug:
  otlp_http:
    endpoint: http://base:4318
    headers: {x-scope: base, x-team: net}
service:
  pipelines:
    metrics: {receivers: [flows], exporters: [debug]}
"""


def merged(folder: Path, *texts: str) -> Configuration:
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"{number}.yaml")
        paths[-1].write_text(text)
    return load(Registry.installed(), path=paths, environment={})


def test_mappings_are_merged_and_lists_replaced_by_the_later_file(tmp_path: Path) -> None:
    site = """
exporters: {debug: , otlp_http: {endpoint: "http://site:4318", headers: {x-scope: site}}}
service: {pipelines: {metrics: {exporters: [otlp_http]}}}
"""
    found = merged(tmp_path, BASE, site)
    assert found.service.pipelines["metrics"].receivers == ["flows"]
    assert found.service.pipelines["metrics"].exporters == ["otlp_http"]
    settings = found.exporters["otlp_http"].settings.model_dump()
    assert settings["endpoint"] == "http://site:4318"
    headers = {name: value.get_secret_value() for name, value in settings["headers"].items()}
    assert headers == {"x-scope": "site", "x-team": "net"}
    assert found.source == f"{tmp_path}/0.yaml, {tmp_path}/1.yaml"


def test_three_files_count_in_their_order(tmp_path: Path) -> None:
    last = [f"service: {{interval: {seconds}s}}" for seconds in (7, 9)]
    assert merged(tmp_path, BASE, *last).service.interval == 9
    assert merged(tmp_path, BASE, *reversed(last)).service.interval == 7


def test_a_problem_is_told_with_the_file_and_line_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1\.yaml:3"):
        merged(tmp_path, BASE, "\nservice:\n  interval: 7\n")
    with pytest.raises(ConfigError, match=r"0\.yaml:6"):
        merged(tmp_path, BASE.replace("http://base", "base"), "service: {interval: 7s}")


def test_the_command_line_and_its_variable_take_several_files(tmp_path: Path) -> None:
    merged(tmp_path, BASE, "service: {interval: 7s}")
    paths = [str(tmp_path / name) for name in ("0.yaml", "1.yaml")]
    given = CliRunner().invoke(command, ["-c", paths[0], "-c", paths[1]])
    variable = CliRunner().invoke(command, [], env={"RETINA_OTEL_CONFIG": os.pathsep.join(paths)})
    for result in (given, variable):
        assert result.exit_code == 0, result.output
        assert f"{', '.join(paths)} is valid (pipelines: metrics)" in result.output

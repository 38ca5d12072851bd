"""Retina's metrics and the preview of names in the agent's routes: beside ours, never instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from retina_otel.agent.routes import AnyProcessor, Route, RouteKey, plan
from retina_otel.config.load import load
from retina_otel.config.registry import Registry
from retina_otel.pipeline.identity.endpoints import EndpointTable

CONFIG = """
receivers: {{flows: {{}}, interfaces: {{}}}}
exporters:
  prometheus: {{classic: {classic}}}
  file: {{path: out.jsonl}}
service:
  telemetry: {{semconv_preview: {preview}}}
  pipelines:
    metrics: {{receivers: [flows, interfaces], exporters: [prometheus, file]}}
"""


def routes(
    folder: Path,
    old: dict[RouteKey, Route] | None = None,
    *,
    classic: bool = False,
    preview: bool = False,
) -> dict[RouteKey, Route]:
    path = folder / "agent.yaml"
    path.write_text(CONFIG.format(classic=str(classic).lower(), preview=str(preview).lower()))
    configuration = load(Registry.installed(), path=path, environment={})

    def processor(id_: str) -> AnyProcessor:
        raise AssertionError(id_)

    return plan(configuration, EndpointTable(), old or {}, processor, own_telemetry=True)


def test_retinas_metrics_have_a_route_of_their_own_that_only_who_wants_them_reads(
    tmp_path: Path,
) -> None:
    found = routes(tmp_path, classic=True)
    by_name = {route.names[0]: route for route in found.values()}
    assert set(by_name) == {"metrics", "classic/metrics", "own"}
    assert by_name["metrics"].exporters == ["prometheus", "file"]
    assert by_name["classic/metrics"].exporters == ["prometheus"]
    assert by_name["classic/metrics"].classic is not None


def test_ours_keep_their_series_when_retinas_come_and_go(tmp_path: Path) -> None:
    without = routes(tmp_path)
    together = routes(tmp_path, without, classic=True)
    after = routes(tmp_path, together)
    assert without.keys() == after.keys() < together.keys()
    for key, route in without.items():
        assert together[key].pipeline is route.pipeline
        assert after[key].pipeline is route.pipeline


def test_retinas_keep_their_series_over_a_reload(tmp_path: Path) -> None:
    first = routes(tmp_path, classic=True)
    second = routes(tmp_path, first, classic=True)
    for key, route in first.items():
        assert (second[key].pipeline, second[key].classic) == (route.pipeline, route.classic)


@pytest.mark.parametrize("classic", [False, True])
def test_other_names_are_other_series(tmp_path: Path, classic: bool) -> None:
    before = routes(tmp_path, classic=classic)
    after = routes(tmp_path, before, classic=classic, preview=True)
    changed = {route.names[0] for key, route in after.items() if key not in before}
    assert changed == {"metrics"}

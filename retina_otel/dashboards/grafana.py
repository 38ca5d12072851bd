"""The dashboard as Grafana's JSON, for its import page, its API, or a provisioned folder."""

from __future__ import annotations

from typing import Any

from retina_otel.dashboards.panels import Panel, Row, Shape, rows
from retina_otel.dashboards.promql import CLUSTER, NODE, Label, PromQL
from retina_otel.encode.prometheus.names import DEFAULT_STRATEGY, TranslationStrategy
from retina_otel.model import signals

_SCHEMA_VERSION = 39
"""Of Grafana 10.4 and newer, which migrate older ones themselves."""
_HEIGHT = {Shape.STAT: 4, Shape.TIME_SERIES: 8, Shape.TABLE: 8}
_PAGE = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(strategy: TranslationStrategy = DEFAULT_STRATEGY) -> dict[str, Any]:
    """The whole dashboard; `strategy` is that by which the backend got its names."""
    promql = PromQL(strategy)
    return {
        "uid": "retina-otel",
        "title": "retina-otel: network of the cluster",
        "description": "Traffic, drops and interfaces of pods and nodes, and whether the numbers "
        "are complete.",
        "tags": ["retina-otel", "kubernetes", "network"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(promql)},
        "panels": _panels(rows(promql)),
    }


def _variables(promql: PromQL) -> list[dict[str, Any]]:
    flows = promql.by_any_name(signals.FLOW_IO)
    namespace = Label.source(signals.K8S_NAMESPACE_NAME)
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        _variable(promql, "cluster", "Cluster", flows, CLUSTER),
        _variable(promql, "node", "Node", flows, NODE),
        _variable(promql, "namespace", "Namespace", flows, namespace),
        {
            "name": "top",
            "label": "Top",
            "type": "custom",
            "query": "10,25,50",
            "current": {"text": "10", "value": "10"},
        },
    ]


def _variable(promql: PromQL, name: str, label: str, series: str, of: Label) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": f"label_values({series}, {promql.plain_label(of)})", "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        # Also what has no such label: a scrape has none of a cluster.
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _panels(content: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    y = 0
    for row in content:
        out.append(_heading(row, len(out) + 1, y))
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > _PAGE:
                x, y, height = 0, y + height, 0
            out.append(_panel(panel, len(out) + 1, x, y))
            x += panel.width
            height = max(height, _HEIGHT[panel.shape])
        y += height
    return out


def _heading(row: Row, number: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": _PAGE, "h": 1},
        "panels": [],
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    instant = panel.shape is not Shape.TIME_SERIES
    return {
        "id": number,
        "type": panel.shape.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HEIGHT[panel.shape]},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "instant": instant,
                "range": not instant,
                **({"format": "table"} if panel.shape is Shape.TABLE else {}),
            }
            for place, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": _thresholds(panel)},
            "overrides": [],
        },
        "options": {},
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_above is not None:
        # Grafana's steps begin at their value.
        steps.append({"color": "red", "value": panel.bad_above + 1})
    if panel.bad_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_below}]
    return {"mode": "absolute", "steps": steps}

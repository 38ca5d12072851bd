"""MetricsConfiguration (retina.sh/v1alpha1) as objects of the API have it, read and checked.

Reading never raises: whatever an object holds, it becomes a specification or problems that name
the path at which they are. Agents and the writer of the status use this one reading, so what a
status says is what agents do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from retina_otel.kubernetes.metrics_configuration.retina_names import (
    ADDITIONAL_LABELS,
    END_LABELS,
    METRICS,
    METRICS_WITHOUT_RECEIVER,
)
from retina_otel.kubernetes.objects import Meta, RawMetricsConfiguration
from retina_otel.model.durations import parse_duration

PATH = "/apis/retina.sh/v1alpha1/metricsconfigurations"
"""Of the list, in the API."""

MOST_OPTIONS = 256
MOST_NAMESPACES = 10_000

_METRIC_NAMES = (*METRICS, *sorted(METRICS_WITHOUT_RECEIVER))
_PREFIXES = ("networkobservability_", "adv_")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a path of the object."""

    path: str
    message: str
    error: bool = False
    """The specification can't be used. False: it is used, but for what stands there."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class ContextOption:
    """One metric: known labels only."""

    path: str
    metric: str
    """Retina's name."""
    source: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    additional: tuple[str, ...] = ()
    ttl_s: float | None = None
    """None: not set. Retina's 0 is "never", here `inf`."""


@dataclass(frozen=True, slots=True)
class Spec:
    options: tuple[ContextOption, ...]
    include: tuple[str, ...] | None
    """Exactly one of the two is set."""
    exclude: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Status:
    """As it stands on the object."""

    state: str = ""
    reason: str = ""
    last_known_spec: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MetricsConfiguration:
    """One object, read."""

    name: str
    resource_version: str
    created_ns: int
    spec: Spec | None
    """None if it has an error."""
    problems: tuple[Problem, ...]
    status: Status
    last_known: Spec | None
    """What was accepted last, by the status."""
    raw: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """spec as the object has it."""

    @property
    def in_force(self) -> Spec | None:
        """What counts: an edit that went wrong leaves what was accepted before."""
        return self.spec or self.last_known


def read(document: Mapping[str, Any]) -> MetricsConfiguration:
    """An object of the API, as JSON has it."""
    meta = _mapping(document.get("metadata"))
    raw = document.get("spec")
    spec, problems = _read_spec(raw)
    status = _mapping(document.get("status"))
    last = status.get("lastKnownSpec")
    return MetricsConfiguration(
        name=str(meta.get("name", "")),
        resource_version=str(meta.get("resourceVersion", "")),
        created_ns=_time_ns(meta.get("creationTimestamp")),
        spec=spec,
        problems=problems,
        status=Status(
            state=str(status.get("state", "")),
            reason=str(status.get("reason", "")),
            last_known_spec=last if isinstance(last, dict) else None,
        ),
        last_known=_read_spec(last)[0] if isinstance(last, dict) else None,
        raw=_mapping(raw),
    )


def reduced(document: Mapping[str, Any]) -> RawMetricsConfiguration:
    """What agents need of an object of the API."""
    meta = _mapping(document.get("metadata"))
    last = _mapping(document.get("status")).get("lastKnownSpec")
    return RawMetricsConfiguration(
        Meta(
            str(meta.get("name", "")),
            str(meta.get("uid", "")),
            str(meta.get("resourceVersion", "")),
            created_ns=_time_ns(meta.get("creationTimestamp")),
        ),
        _text(document.get("spec")),
        _text(last),
    )


def read_reduced(one: RawMetricsConfiguration) -> MetricsConfiguration:
    """As `read`, of all but the status that people see."""
    meta = {"name": one.meta.name, "resourceVersion": one.meta.resource_version}
    found = read(
        {
            "metadata": meta,
            "spec": _parsed(one.spec),
            "status": {"lastKnownSpec": _parsed(one.last_known_spec)},
        }
    )
    return replace(found, created_ns=one.meta.created_ns)


def _text(raw: object) -> str:
    return "" if raw is None else json.dumps(raw, separators=(",", ":"), sort_keys=True)


def _parsed(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _read_spec(raw: object) -> tuple[Spec | None, tuple[Problem, ...]]:
    if not isinstance(raw, dict):
        return None, (Problem("spec", "it is missing", error=True),)
    problems: list[Problem] = []
    options = tuple(_options(raw.get("contextOptions"), problems))
    include, exclude = _namespaces(raw.get("namespaces"), problems)
    if any(problem.error for problem in problems):
        return None, tuple(problems)
    return Spec(options, include, exclude), tuple(problems)


def _options(raw: object, problems: list[Problem]) -> Iterator[ContextOption]:
    where = "spec.contextOptions"
    if not isinstance(raw, list) or not raw:
        problems.append(Problem(where, "name at least one metric", error=True))
        return
    if len(raw) > MOST_OPTIONS:
        problems.append(Problem(where, f"more than {MOST_OPTIONS} options", error=True))
        return
    for number, one in enumerate(raw):
        option = _mapping(one)
        path = f"{where}[{number}]"
        metric = str(option.get("metricName", ""))
        if metric not in _METRIC_NAMES:
            bare = metric
            for prefix in _PREFIXES:
                bare = bare.removeprefix(prefix)
            hint = _hint(bare, _METRIC_NAMES)
            message = f'unknown metric "{metric}"{hint}'
            problems.append(Problem(f"{path}.metricName", message, error=True))
            continue
        if metric in METRICS_WITHOUT_RECEIVER:
            message = f"no receiver reports {metric}; this option has no effect"
            problems.append(Problem(f"{path}.metricName", message))
        ends = {
            key: tuple(
                label
                for _, label in _labels(option.get(key), f"{path}.{key}", END_LABELS, problems)
            )
            for key in ("sourceLabels", "destinationLabels")
        }
        yield ContextOption(
            path,
            metric,
            ends["sourceLabels"],
            ends["destinationLabels"],
            tuple(_additional(option.get("additionalLabels"), path, metric, problems)),
            _ttl(option.get("ttl"), f"{path}.ttl", problems),
        )


def _labels(
    raw: object, path: str, known: Mapping[str, object], problems: list[Problem]
) -> Iterator[tuple[int, str]]:
    for number, label in _strings(raw, path, problems):
        if label in known:
            yield number, label
        else:
            hint = _hint(label, tuple(known))
            problems.append(Problem(f"{path}[{number}]", f'unknown label "{label}"{hint}'))


def _additional(raw: object, option: str, metric: str, problems: list[Problem]) -> Iterator[str]:
    path = f"{option}.additionalLabels"
    for number, label in _labels(raw, path, ADDITIONAL_LABELS, problems):
        if metric in METRICS and not any(
            one.name == ADDITIONAL_LABELS[label] for one in METRICS[metric].attributes
        ):
            message = f"{metric} has no {label}; the label is left out"
            problems.append(Problem(f"{path}[{number}]", message))
        else:
            yield label


def _ttl(raw: object, path: str, problems: list[Problem]) -> float | None:
    if raw is None or raw == "":
        return None
    text = str(raw)
    try:
        seconds = parse_duration(text.removeprefix("+"))
    except ValueError:
        message = f'"{text}" is not a duration above 0: write number and unit, as "30s" or "5m"'
        problems.append(Problem(path, message, error=True))
        return None
    return seconds or math.inf


def _namespaces(
    raw: object, problems: list[Problem]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    where = "spec.namespaces"
    chosen = _mapping(raw)
    given = [key for key in ("include", "exclude") if chosen.get(key) is not None]
    if len(given) != 1:
        what = "both include and exclude are set" if given else "neither include nor exclude is set"
        problems.append(Problem(where, f"{what}; set one of them", error=True))
        return None, None
    path = f"{where}.{given[0]}"
    names = []
    for number, name in _strings(chosen[given[0]], path, problems, most=MOST_NAMESPACES):
        names.append(name)
        if not _NAMESPACE.fullmatch(name):
            problems.append(Problem(f"{path}[{number}]", f'no namespace can be called "{name}"'))
    return (tuple(names), None) if given[0] == "include" else (None, tuple(names))


def _strings(
    raw: object, path: str, problems: list[Problem], most: int = MOST_OPTIONS
) -> Iterator[tuple[int, str]]:
    if raw is None:
        return
    if not isinstance(raw, list) or not all(isinstance(one, str) for one in raw):
        problems.append(Problem(path, "it is not a list of strings", error=True))
        return
    if len(raw) > most:
        problems.append(Problem(path, f"more than {most} entries", error=True))
        return
    yield from enumerate(raw)


def _hint(word: str, known: Sequence[str]) -> str:
    """As `pod` for `podname`: what begins alike, else what is written alike."""
    near = [one for one in known if word and (one.startswith(word.lower()) or one == word.lower())]
    near += get_close_matches(word.lower(), known, n=1)
    return f', did you mean "{near[0]}"?' if near else f"; there are {', '.join(known)}"


def _mapping(raw: object) -> dict[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _time_ns(raw: object) -> int:
    try:
        return int(datetime.fromisoformat(str(raw)).timestamp()) * 1_000_000_000
    except ValueError:
        return 0

"""The attributes that a pipeline chooses: what nothing answers to would be summed away unsaid.

Warnings only: a package may add attributes that it does not declare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from retina_otel.component import Component
from retina_otel.config.registry import nearest
from retina_otel.config.settings import PipelineSettings
from retina_otel.model.signals import END_ATTRIBUTES, Attribute, Event, Metric
from retina_otel.pipeline.series.projection import DEFAULT, PREFIXES

_POD_LABELS = "k8s.pod.label."


def unmatched(
    pipeline: str,
    settings: PipelineSettings,
    receivers: Sequence[Component],
    others: Iterable[Component],
) -> Iterator[str]:
    """A warning for each name or attribute in `attributes` that no signal of the pipeline has.

    `others` are the components that may declare attributes of ends. Nothing is said of pipelines
    with a receiver that declares no signals.
    """
    kind = Metric if pipeline.partition("/")[0] == "metrics" else Event
    signals: list[Metric | Event] = []
    for receiver in receivers:
        declared = [one for one in receiver.declares if isinstance(one, kind)]
        if not declared:
            return
        signals += declared
    ends = [one.name for one in END_ATTRIBUTES]
    ends += [one.name for c in others for one in c.declares if isinstance(one, Attribute)]
    for name, patterns in settings.attributes.items():
        where = f"service.pipelines.{pipeline}.attributes.{name}"
        chosen = [one for one in signals if fnmatchcase(one.name, name)]
        if not chosen:
            word = "metric" if kind is Metric else "event"
            known = [one.name for one in signals]
            yield f"{where}: no {word} of this pipeline is called so{_hint(name, known)}"
            continue
        known = sorted({attribute for signal in chosen for attribute in _of(signal, ends)})
        for pattern in patterns:
            if pattern != DEFAULT and not _matches(pattern, known):
                yield f"{where}: nothing has the attribute '{pattern}'{_hint(pattern, known)}"


def _of(signal: Metric | Event, ends: Sequence[str]) -> Iterator[str]:
    yield from (one.name for one in signal.attributes)
    yield from (prefix + name for prefix in PREFIXES[signal.ends] for name in ends)


def _matches(pattern: str, known: Sequence[str]) -> bool:
    return _POD_LABELS in pattern or any(fnmatchcase(name, pattern) for name in known)


def _hint(word: str, known: Sequence[str]) -> str:
    close = nearest(word, known)
    return f". Did you mean '{close}'?" if close else ""

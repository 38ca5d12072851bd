"""file: OTLP as JSON, one request a line, in the format of the Collector's file exporter.

Any Collector reads it back with its `otlp_json_file` receiver. A full disk costs no metrics (newer
values are written when there is room again) and events only beyond the bounds of their buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.delivery.file import LineFile, Rotation
from retina_otel.delivery.push import EventsRoute, MetricsRoute, PlainSender, Push, RetryPolicy
from retina_otel.encode.otlp.json_lines import JsonLogsEncoder, JsonMetricsEncoder
from retina_otel.pipeline.points import EventsReader, MetricsReader, ResourceModel

_MEGABYTE = 1 << 20
_RETRY = RetryPolicy(initial_s=1.0, max_s=10.0, max_elapsed_s=0.0)


class RotationSettings(Settings):
    """A file that is full is renamed to `<name>-<UTC time>.<suffix>`, and a new one begun."""

    max_megabytes: int = Field(default=100, ge=1)
    """Size in MiB at which a file is full."""

    max_backups: int = Field(default=10, ge=0)
    """Renamed files to keep; the oldest are removed. 0 keeps all of them."""


class FileSettings(Settings):
    """Settings of `file`, named as in the Collector's file exporter."""

    path: Path
    """File to write to; its directory must exist. It is made with mode 0640, since it tells who
    talks to whom; one that is there keeps its own."""

    append: bool = False
    """Add to a file that is there. Otherwise it is emptied when the agent starts; a reload of the
    configuration adds to it in any case."""

    rotation: RotationSettings | None = None
    """Begin a new file when this one is full; adds to a file that is there. Not set: one file that
    grows for ever."""

    resource_model: ResourceModel = ResourceModel.FLAT
    """Where the pod of a metric with one end stands: `flat`, on the point; `entity`, in a resource
    of its own. As `otlp_http` has it."""

    entity_refs: bool = False
    """Resources say which entities they stand for. As `otlp_http` has it."""

    interval: PositiveDuration = Field(default="15s", validate_default=True)
    """Time between two exports of metrics."""

    flush_interval: PositiveDuration = Field(default="1s", validate_default=True)
    """Longest time that an event waits before it is written."""

    @model_validator(mode="after")
    def _one_of_append_and_rotation(self) -> FileSettings:
        if self.append and self.rotation is not None:
            raise ValueError("leave append out: with rotation a file that is there is added to")
        return self


class FileExporter:
    """One file, one thread; a line is either in it as a whole or not at all."""

    def __init__(self, settings: FileSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._push: Push | None = None

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises ConfigError if the file can't be written."""
        settings, context = self._settings, self._context
        rotation = None
        if settings.rotation is not None:
            full = settings.rotation.max_megabytes * _MEGABYTE
            rotation = Rotation(full, settings.rotation.max_backups)
        # The ledger outlives a reload: what an exporter of this id has written before must stay.
        first = not context.ledger.report().seen
        file = LineFile(
            settings.path,
            clock=context.clock,
            truncate=first and not settings.append and rotation is None,
            rotation=rotation,
        )
        sender = PlainSender(file.write, file.close)
        self._push = Push(
            context,
            _RETRY,
            MetricsRoute(
                encode=lambda: (
                    JsonMetricsEncoder(
                        context.resource,
                        resource_model=settings.resource_model,
                        entity_refs=settings.entity_refs,
                    ).requests
                ),
                sender=sender,
                interval_s=settings.interval,
            ),
            EventsRoute(
                encode=lambda: (
                    JsonLogsEncoder(context.resource, entity_refs=settings.entity_refs).requests
                ),
                sender=sender,
                interval_s=settings.flush_interval,
            ),
            at_once=True,
        )
        self._push.start(metrics, events)

    def stop(self, deadline_ns: int) -> None:
        if self._push is not None:
            self._push.stop(deadline_ns)


COMPONENT = Component(
    type="file",
    kind=ComponentKind.EXPORTER,
    stability="alpha",
    Settings=FileSettings,
    create=FileExporter,
    signals=frozenset({"metrics", "logs"}),
)

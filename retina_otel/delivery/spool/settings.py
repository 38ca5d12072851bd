"""Settings of the spool that a push exporter may have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from retina_otel.delivery.spool.queue import SpoolLimits, SpoolPlace
from retina_otel.delivery.strict import StrictSettings
from retina_otel.model.durations import ByteSize, Duration


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("it is relative: write the whole path, as /var/lib/retina-otel/spool")
    return path


class SpoolSettings(StrictSettings):
    """Events wait on the disk instead of in memory: what is there survives the agent, also when it
    is killed, and is sent at the next start, at least once. Metrics need none: the newest values
    are sent anew."""

    directory: Annotated[Path, AfterValidator(_absolute)]
    """Directory of this exporter alone; it is made, with mode 0700, if it is not there."""

    max_bytes: ByteSize = Field(default="256MiB", validate_default=True, ge=1 << 20)
    """Bound of all files there. Beyond it the oldest events are thrown away, and counted."""

    max_age: Duration = Field(default="24h", validate_default=True)
    """Events that could not be sent for so long are thrown away, and counted. 0 keeps them until
    there is no room. What is on the disk has this limit instead of
    `retry_on_failure.max_elapsed_time`."""

    def place(self, content: str) -> SpoolPlace:
        """For requests of a format, named in at most 16 bytes."""
        return SpoolPlace(self.directory, content, SpoolLimits(self.max_bytes, self.max_age))

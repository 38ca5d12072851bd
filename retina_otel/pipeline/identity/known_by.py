"""How it became known who the ends of events are, as attributes. Points of metrics have none: it
would part series that are the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from retina_otel.model.attributes import DESTINATION_KNOWN_BY, SOURCE_KNOWN_BY
from retina_otel.model.batches import Column, EventBatch, How

_WORDS = {
    How.UNKNOWN: "none",
    How.INTERFACE: "interface",
    How.NAMESPACE: "network_namespace",
    How.SOCKET: "socket",
    How.ADDRESS: "address",
    How.BACKEND: "translation",
    How.AMBIGUOUS: "ambiguous",
    How.NOBODY: "none",
}
_BY_NUMBER = tuple(_WORDS[how] for how in How)


def known_by(batch: EventBatch) -> Mapping[str, Column]:
    """A column for each end that identity was asked about, and that the event declares."""
    return {
        attribute.name: Column(how.astype(np.int32), _BY_NUMBER)
        for attribute, how in (
            (SOURCE_KNOWN_BY, batch.source_how),
            (DESTINATION_KNOWN_BY, batch.destination_how),
        )
        if how is not None and attribute in batch.event.attributes
    }

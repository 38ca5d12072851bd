"""Settings of the kubernetes extension that would make what is told wrong are refused."""

from __future__ import annotations

import numpy as np
import pytest

from retina_otel.extensions.kubernetes.settings import MOST_SETTLE_S, KubernetesSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable

SECOND = 1_000_000_000


@pytest.mark.parametrize("text", ["61s", "5m", "24h"])
def test_no_more_waits_for_who_has_an_address_than_is_remembered(text: str) -> None:
    with pytest.raises(ValueError, match="settle must be at most 1m"):
        KubernetesSettings.model_validate({"settle": text})


@pytest.mark.parametrize("text", ["0s", "5s", "60s"])
def test_settle_within_that_is_taken(text: str) -> None:
    assert KubernetesSettings.model_validate({"settle": text}).settle <= MOST_SETTLE_S


def test_a_row_that_waits_for_the_longest_time_is_still_who_it_was() -> None:
    """Its number is not another's, and its address is remembered, when it has waited so long and
    what it was told by came late by as much."""
    table = EndpointTable()
    table.apply([Endpoint(EndpointKind.POD, "old", {}, interfaces=(7,))])
    (row,) = table.resolve_interface(np.array([7], np.uint32)).tolist()
    table.apply((), ["old"])
    for second in range(int(2 * MOST_SETTLE_S)):
        table.advance((1_000 + second) * SECOND)
        table.apply([Endpoint(EndpointKind.POD, f"new-{second}", {}, interfaces=(8,))])
        assert table.endpoint(row).key == "old"
    table.advance((1_000 + int(2 * MOST_SETTLE_S) + 10) * SECOND)
    table.apply([Endpoint(EndpointKind.POD, "another", {}, interfaces=(9,))])
    assert table.endpoint(row).key == "another", "else this shows nothing"

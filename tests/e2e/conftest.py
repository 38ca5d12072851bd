"""The Collector of collector-config/builder.yaml, run on loopback with first-light.yaml itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel.testing.backends import Collector


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with Collector("first-light", tmp_path) as instance:
        yield instance

"""Fixtures of tests with real packets: each test has a lab of its own, gone when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from retina_otel.testing.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A node with the pods shop/web and shop/api behind it and a world outside; offloads are
    off."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab("shop/web", "shop/api") as made:
        yield made


@pytest.fixture
def offloaded_lab() -> Iterator[Lab]:
    """The same with TSO and GSO on: interfaces carry buffers that stand for many packets."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab("shop/web", "shop/api", offloads=True) as made:
        yield made

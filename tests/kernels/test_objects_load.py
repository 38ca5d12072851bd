"""Every BPF object loads on the kernel that runs the tests, this machine's or another."""

from __future__ import annotations

from pathlib import Path

import pytest

from retina_otel.loaders import core, objects

SOURCES = sorted((Path(__file__).parents[2] / "bpf").glob("*.bpf.c"))
FOR_TESTS = {"rt_selftest"}
"""One of its programs is refused on purpose: tests/kernel speaks of it."""

NAMES = [name for name in (s.name.removesuffix(".bpf.c") for s in SOURCES) if name not in FOR_TESTS]


@pytest.mark.kernels
@pytest.mark.parametrize("name", NAMES)
def test_every_program_of_the_object_loads(name):
    with core.load(objects.path(name)) as loaded:
        assert loaded.programs
        assert all(fd > 0 for fd in loaded.programs.values())

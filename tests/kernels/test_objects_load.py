"""Every BPF object loads on the kernel that runs the tests, this machine's or another."""

from __future__ import annotations

from pathlib import Path

import pytest

from retina_otel.loaders import core, objects

SOURCES = sorted((Path(__file__).parents[2] / "bpf").glob("*.bpf.c"))


@pytest.mark.kernels
@pytest.mark.parametrize("name", [source.name.removesuffix(".bpf.c") for source in SOURCES])
def test_every_program_of_the_object_loads(name):
    with core.load(objects.path(name)) as loaded:
        assert loaded.programs
        assert all(fd > 0 for fd in loaded.programs.values())

"""What is shipped: the wheel has objects, types and licence, and nothing of the tests."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_has_an_object_for_every_source(names):
    folder = f"retina_otel/_bpf/{platform.machine()}/"
    objects = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    sources = {f"{source.stem}.o" for source in (ROOT / "bpf").glob("*.bpf.c")}
    assert objects == sources - {"rt_selftest.bpf.o"}


def test_the_wheel_has_types_and_licence(names):
    assert "retina_otel/py.typed" in names
    assert [name.rpartition("/")[2] for name in names if "/licenses/" in name] == ["LICENSE"]


def test_the_wheel_holds_one_package(names):
    folders = {name.partition("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"retina_otel"}

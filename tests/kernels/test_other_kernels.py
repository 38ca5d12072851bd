"""The short scenario (tests marked `kernels`) on other kernels, booted under emulation."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kernel_series() -> list[str]:
    command = ["bash", "tools/kernels", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def scenario() -> list[str]:
    """Files with tests of the scenario: importing all others takes minutes under emulation."""
    files = [path for path in ROOT.glob("tests/**/test_*.py") if path != Path(__file__)]
    return sorted(
        str(path.relative_to(ROOT)) for path in files if "mark.kernels" in path.read_text()
    )


def run_on(series: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "tools/kernels", "run", series, *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("series", kernel_series())
def test_objects_load_and_counts_are_exact_on(series):
    done = run_on(
        series,
        *(".venv/bin/python", "-m", "pytest", *scenario(), "-m", "kernels"),
        *("-q", "-p", "no:cacheprovider", "--color=no", "--timeout=600"),
    )
    print(done.stdout)
    closing = done.stdout.rstrip().rpartition("\n")[2]
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"\d+ passed, \d+ deselected in .*", closing), done.stdout


def test_the_exit_code_of_a_command_there_comes_back():
    series = kernel_series()[0]

    done = run_on(series, "bash", "-c", "uname -r; exit 7")

    assert done.returncode == 7
    assert done.stdout.startswith(f"{series}.")
    assert done.stdout.strip() != platform.release()

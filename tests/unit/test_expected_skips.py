"""The guard of the test run itself: a skip that nobody expected fails it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
ONE_SKIPPED = """
import pytest

@pytest.mark.skip(reason="no such kernel")
def test_left_out():
    raise AssertionError

def test_done():
    pass
"""


@pytest.fixture
def run(tmp_path):
    """Runs pytest on a file with one test that is skipped; `expected` is the list it is given."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(ONE_SKIPPED)

    def go(expected: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "expected").write_text(expected)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--expected-skips", "expected", "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return go


def test_a_skip_that_is_not_listed_fails_the_run_and_is_named(run):
    done = run("")

    assert done.returncode == 1
    assert "test_it.py::test_left_out: Skipped: no such kernel" in done.stdout


def test_a_skip_that_is_listed_passes(run):
    done = run("# kernels\ntest_it.py::test_left* | that kernel is not everywhere\n")

    assert done.returncode == 0
    assert "1 passed, 1 skipped" in done.stdout


def test_a_listed_skip_without_a_reason_is_refused(run):
    done = run("test_it.py::test_left_out\n")

    assert done.returncode == 4
    assert "an expected skip needs ` | ` and a reason" in done.stderr

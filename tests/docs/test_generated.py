"""What is made from the source is as the source says now."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.pages import ROOT


def test_the_signals_in_the_readme_are_those_of_the_model():
    done = subprocess.run([sys.executable, "tools/readme_signals.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, "run `make docs`"

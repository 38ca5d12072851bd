"""For all tests: what needs root says so, and a skip that nobody expected fails the run.

`--expected-skips FILE` names the skips that are all right, one a line: a pattern of test ids,
` | `, the reason. Without the option any skip is let through, since machines differ.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import pytest

ROOT_FOLDERS = {"kernel", "netns", "e2e", "kernels", "cluster"}
"""Folders whose tests make network namespaces or load programs."""

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--expected-skips",
        metavar="FILE",
        type=Path,
        help="fail the run when a test is skipped that this file does not list",
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--expected-skips")
    if path is not None:
        config.pluginmanager.register(UnexpectedSkips(read_patterns(path)), "unexpected-skips")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.path.relative_to(HERE).parts[0] in ROOT_FOLDERS:
            item.add_marker("root")
        if os.geteuid() != 0 and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: run it by `make test`"))


def read_patterns(path: Path) -> list[str]:
    """Patterns of test ids. Each line must give a reason after ` | `."""
    patterns = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, bar, reason = line.partition(" | ")
        if not bar or not reason.strip():
            raise pytest.UsageError(f"{path}:{number}: an expected skip needs ` | ` and a reason")
        patterns.append(pattern.strip())
    return patterns


class UnexpectedSkips:
    """Collects skips that no pattern allows; the run fails if there is one."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        self._found: list[str] = []

    def _judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        if any(fnmatch.fnmatchcase(report.nodeid, pattern) for pattern in self._patterns):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self._found.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._judge(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._judge(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._found:
            terminalreporter.section("skipped, but not expected to be", red=True)
            for line in self._found:
                terminalreporter.write_line(line)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

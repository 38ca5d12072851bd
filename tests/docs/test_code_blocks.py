"""What the documentation tells a reader to do works: pages are followed from top to bottom.

A page is a scenario in a folder of its own, which shows this repository's files, and in a network
namespace of its own, where only loopback is. Blocks with `title=NAME` are saved under that name,
`sh` blocks are run a command at a time. A command that is not run here stands in not-run.txt, with
the reason. The agent and the Collector run until the page ends, and must then end well on SIGTERM.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, commands, name, pages

NOT_RUN = ROOT / "tests" / "docs" / "not-run.txt"
SERVERS = re.compile(
    r"retina-otel agent\b|build-collector --path\) --config\b|--path prometheus\) --config\.file\b"
    r"|--path loki\) -config\.file\b|--path kafka\) \d"
    r"|-m retina_otel\.testing\.application_insights\b"
)
READY = re.compile(
    r"\bstarted: |Everything is ready|Server is ready to receive web requests"
    r"|Loki started|listening at "
)
COMMAND_SECONDS = 60
START_SECONDS = 30

PAGES = [page for page in pages() if any(b.language == "sh" or b.title for b in blocks(page))]


def not_run() -> dict[str, str]:
    """Commands that are left out, and why."""
    out = {}
    for line in NOT_RUN.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            command, bar, reason = line.partition(" | ")
            assert bar, f"no reason given: {line}"
            out[command.strip()] = reason.strip()
    return out


@contextmanager
def own_network() -> Iterator[str]:
    """A network namespace with nothing but loopback; its name."""
    namespace = f"rt-docs-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        yield namespace
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


class Reader:
    """Does what a page says."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self._enter = ["nsenter", f"--net=/run/netns/{namespace}", "bash", "-euo", "pipefail", "-c"]
        self._folder = folder
        for entry in ROOT.iterdir():
            (folder / entry.name).symlink_to(entry)

    def save(self, block: Block) -> None:
        (self._folder / block.title).write_text(block.text)

    def run(self, command: str) -> str:
        done = subprocess.run(
            [*self._enter, command],
            # What make sets up belongs to the repository, and would remember this folder.
            cwd=ROOT if command.startswith("make ") else self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Runs a server until the page ends; goes on when it says that it is ready."""
        log_path = self._folder / f"server-{uuid.uuid4().hex[:4]}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*self._enter, f"exec {command}"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            try:
                deadline = time.monotonic() + START_SECONDS
                while not READY.search(log_path.read_text()):
                    assert process.poll() is None, f"{command}\n{log_path.read_text()}"
                    assert time.monotonic() < deadline, f"{command}\n{log_path.read_text()}"
                    time.sleep(0.05)
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(timeout=20)
        assert code == 0, f"{command}\n{log_path.read_text()}"


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_reader_who_follows_the_page_succeeds(page, tmp_path):
    left_out = not_run()
    with own_network() as namespace, ExitStack() as servers:
        reader = Reader(namespace, tmp_path)
        for block in blocks(page):
            if block.title:
                reader.save(block)
            if block.language != "sh":
                continue
            for command in commands(block.text):
                if command in left_out:
                    continue
                if SERVERS.search(command):
                    servers.enter_context(reader.serving(command))
                else:
                    print(reader.run(command))


def test_every_command_that_is_left_out_stands_in_a_page():
    written = {
        command
        for page in pages()
        for block in blocks(page)
        if block.language == "sh"
        for command in commands(block.text)
    }
    assert sorted(set(not_run()) - written) == []

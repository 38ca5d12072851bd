"""The demo as a person runs it: it proves what it shows, ends when told to, and leaves nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from retina_otel.testing.namespaces import remove_strays

pytestmark = pytest.mark.root

DEMO = [sys.executable, "-m", "retina_otel", "demo"]


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


def left_behind(pid: int) -> list[Path]:
    """What is there of labs that this process made."""
    tags = [
        owner.name.removeprefix("rt-").removesuffix(".lab")
        for owner in Path("/run").glob("rt-*.lab")
        if owner.read_text().startswith(f"{pid} ")
    ]
    return [
        path
        for tag in tags
        for path in (
            *Path("/run/netns").glob(f"rt-{tag}-*"),
            *Path(tempfile.gettempdir()).glob(f"rt-{tag}"),
        )
    ]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *options], capture_output=True, text=True, timeout=90, check=False
    )


def test_all_stated_equalities_hold_and_nothing_is_lost(tmp_path: Path) -> None:
    done = run("--duration", "4s", "--json", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr + done.stdout
    said: dict[str, Any] = json.loads(done.stdout)
    assert [equality for equality in said["equalities"] if not equality["holds"]] == []
    assert not any(said["ledgers"]["receiver/flows"]["lost"].values())
    assert {(drop["reason"], drop["source"], drop["destination"]) for drop in said["drops"]} >= {
        ("netfilter_drop", "shop/web", "shop/db"),
        ("netfilter_drop", "shop/api", "outside"),
        ("no_socket", "shop/web", "shop/db"),
    }
    assert {"agent.yaml", "agent.log", "identity.yaml", "otlp.jsonl"} == set(os.listdir(tmp_path))


def test_what_prometheus_holds_at_the_far_end_is_what_was_sent() -> None:
    done = run("--backends", "--duration", "4s", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    stated = [e for e in json.loads(done.stdout)["equalities"] if e["group"] == "Prometheus"]
    assert [equality["what"] for equality in stated] == [
        "packets of all flows",
        "bytes of all flows",
        "packets of pods dropped",
    ]
    assert all(equality["holds"] for equality in stated)


def test_without_a_terminal_it_prints_progress_and_the_final_tables() -> None:
    done = run("--duration", "3s")
    assert done.returncode == 0, done.stderr + done.stdout
    for expected in (
        "Flows by pair",
        "Drops by reason",
        "netfilter_drop",
        "Ledger",
        "Interfaces",
        "Senders",
        "Equalities",
        "shop/web",
        "infra/dns",
    ):
        assert expected in done.stdout
    assert "mismatch" not in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_final_tables(number: signal.Signals) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        said = ""
        for line in demo.stdout:
            said += line
            if "packets seen" in line:
                break
        demo.send_signal(number)
        said += demo.stdout.read()
        assert demo.wait(60) == 0, said
        assert re.search(r"(\d+) of \1 equalities hold", said)
        assert left_behind(demo.pid) == []


def test_a_packet_that_no_sender_tallied_is_a_mismatch() -> None:
    one_datagram = (
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('10.244.0.11', 9))"
    )
    with subprocess.Popen([*DEMO, "--duration", "3s"], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        for line in demo.stdout:
            if "packets seen" in line:
                break
        (web,) = (path for path in left_behind(demo.pid) if path.name.endswith("-web"))
        subprocess.run(["nsenter", f"--net={web}", sys.executable, "-c", one_datagram], check=True)
        said = demo.stdout.read()
        assert demo.wait(60) == 1
    assert re.search(r"mismatch +packets that left shop/web +interface ([\d,]+) = agent \1 ≠", said)


def test_a_signal_before_the_agent_is_ready_ends_it_too() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(60) == 130
        assert left_behind(demo.pid) == []


def test_on_a_terminal_it_shows_a_live_view() -> None:
    controller, terminal = pty.openpty()
    demo = subprocess.Popen(
        [*DEMO, "--duration", "4s"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "60"},
    )
    os.close(terminal)
    said = b""
    try:
        while chunk := os.read(controller, 65536):
            said += chunk
    except OSError:
        pass  # the other side has closed
    finally:
        os.close(controller)
    assert demo.wait(60) == 0
    live = said.partition(b"\x1b[?1049h")[2].partition(b"\x1b[?1049l")[0].decode()
    assert "Flows by pair" in live
    assert "netfilter_drop" in live
    assert "shop/api" in live


def test_what_a_killed_demo_left_goes_with_the_next_lab() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        for line in demo.stdout:
            if "packets seen" in line:
                break
        there = left_behind(demo.pid)
        demo.kill()
    remove_strays()
    assert len(there) == 7
    assert not any(path.exists() for path in there)


def test_without_root_it_says_so_in_one_line() -> None:
    # A user namespace without a mapping: nobody, who may still read the files.
    done = subprocess.run(
        ["unshare", "--user", *DEMO], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        4,
        "",
        "error: demo: EPERM (Operation not permitted): it needs root, for network namespaces and"
        " BPF. Run it as root, or with sudo\n",
    )


def test_a_wrong_duration_is_a_usage_error() -> None:
    done = run("--duration", "soon")
    assert done.returncode == 2
    assert "'soon' is not a duration" in done.stderr

"""The report says what works here, and waiting for programs waits for them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading

import pytest

from retina_otel.kernel import probe
from retina_otel.kernel.bpf import quiesce


def report_as(*setpriv: str) -> dict[str, list[object]]:
    """The report of a process with fewer capabilities: {feature: [available, reason, remedy]}."""
    code = (
        "import json; from retina_otel.kernel.probe import probe; "
        "print(json.dumps({n: [f.available, f.reason, f.remedy] for n, f in probe().features()}))"
    )
    done = subprocess.run(
        ["setpriv", *setpriv, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_root_on_this_kernel_can_do_everything_it_offers():
    report = probe.probe()

    missing = {name for name, one in report.features() if not one.available}
    assert missing <= {"bpffs", "tcx", "cap_sys_resource"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.release = "other"  # type: ignore[misc]


def test_what_a_process_without_privileges_lacks_has_a_reason_and_a_remedy():
    report = report_as("--reuid=65534", "--clear-groups", "--inh-caps=-all")

    for name in ("cap_bpf", "cap_net_admin", "programs", "tcx", "clsact", "ringbuf", "tp_btf"):
        available, reason, remedy = report[name]
        assert not available, name
        assert reason, name
        assert "CAP_" in str(remedy), name
    assert report["btf"][0]
    assert report["membarrier_global"][0]


def test_a_process_that_lacks_one_capability_lacks_what_needs_it():
    report = report_as("--bounding-set=-net_admin")

    assert not report["cap_net_admin"][0]
    assert not report["clsact"][0]
    assert report["cap_bpf"][0]
    assert report["ringbuf"][0]


def test_probing_twice_leaves_nothing_open_and_says_the_same():
    before = sorted(os.listdir("/proc/self/fd"))

    assert probe.probe() == probe.probe()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.kernels
@pytest.mark.parametrize("wait", [quiesce.wait_for_programs, quiesce.wait_by_map])
def test_after_the_wait_no_program_that_ran_before_is_running(selftest, held, wait):
    values = selftest.globals
    still_running = []

    def wait_and_look() -> None:
        wait()
        still_running.append(int(values.rt_running))

    waiter = threading.Thread(target=wait_and_look)
    with held(selftest.programs["rt_slow"], values):
        waiter.start()
        # Longer than a wait takes when nothing runs; the program runs until it is released.
        waiter.join(0.2)
        assert waiter.is_alive()
    waiter.join()
    assert still_running == [0]

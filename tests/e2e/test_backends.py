"""The backends that the tests start end with whoever started them."""

from __future__ import annotations

import os
import select
import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from retina_otel.testing.backends import Kafka
with Kafka(Path(sys.argv[1])) as kafka:
    print(kafka.pid, flush=True)
    sys.stdin.read()
"""


def test_a_backend_dies_with_the_process_that_started_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        backend = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()
        ended, _, _ = select.select([backend], [], [], 10)
        os.close(backend)
    assert ended

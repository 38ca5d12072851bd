"""The drops table gives each record of the ring once, however late it is committed."""

from __future__ import annotations

import numpy as np

from retina_otel.receivers.drops.table import DropsTable


def test_a_record_that_comes_a_generation_late_is_given_all_the_same() -> None:
    table = DropsTable([], max_entries=64, ring_bytes=4096, max_namespaces=16)
    try:
        # Nothing makes the kernel keep a record back at will: this one stands where it would.
        late = table._pending = np.zeros(1, table._pending.dtype)
        late["generation"], late["bytes"] = 0, 77
        rows = [row for _ in range(2) for row in table.take().rows["bytes"].tolist()]
    finally:
        table.close()
    assert rows.count(77) == 1

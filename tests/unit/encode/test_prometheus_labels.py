"""Numbers by which rows of equal labels are found differ where labels do."""

from __future__ import annotations

import numpy as np

from retina_otel.encode.prometheus.escaping import Naming
from retina_otel.encode.prometheus.labels import LabelNames, LabelTable, label_text
from retina_otel.model.attribute_sets import AttributeSets

PODS = 300


def test_ends_that_swap_places_have_keys_of_their_own() -> None:
    sets = AttributeSets()
    ids = {
        end: np.array(
            [sets.intern(((f"{end}.k8s.pod.name", f"web-{n}"),)) for n in range(PODS)], np.int32
        )
        for end in ("source", "destination")
    }
    table = LabelTable(sets, Naming(), label_text, LabelNames())
    columns = np.repeat(ids["source"], PODS), np.tile(ids["destination"], PODS)
    table.refresh(*columns)

    assert len(np.unique(table.keys(*columns))) == PODS * PODS

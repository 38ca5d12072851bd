"""The leader's work: every MetricsConfiguration's status says what is wrong with it."""

from __future__ import annotations

import json

from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.kubernetes.metrics_configuration.objects import PATH, read
from retina_otel.kubernetes.metrics_configuration.status import outdated, write_status

_NOT_FOUND, _CONFLICT = 404, 409


def write_statuses(access: Access) -> int:
    """Writes what is not as it should be; how many. There may be no such kind in the cluster.

    Raises AccessError.
    """
    written = 0
    with access.session() as session:
        try:
            documents = json.loads(session.request("GET", PATH))["items"]
        except AccessError as error:
            if error.status == _NOT_FOUND:
                return 0
            raise
        for one, status in outdated([read(document) for document in documents]):
            try:
                write_status(session, one, status)
            except AccessError as error:
                # It has changed meanwhile, or is gone: the next round sees it as it is.
                if error.status not in (_CONFLICT, _NOT_FOUND):
                    raise
            else:
                written += 1
    return written

"""Writes retina_otel/semconv.py, the names of our signals as constants; `--check` compares.

Run by `make docs`; tests/docs checks that the module is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from retina_otel.agent.own_metrics import OWN_METRICS
from retina_otel.model.attributes import END_ATTRIBUTES
from retina_otel.model.signals import BUILT_IN, SCHEMA_URL, Ends, Event, Metric
from retina_otel.pipeline.series.projection import PREFIXES

MODULE = Path(__file__).parents[1] / "retina_otel" / "semconv.py"
SIGNALS = (*BUILT_IN, *OWN_METRICS)
HEAD = '''"""Names of metrics, events and attributes, for programs that read what agents report.

Written from the code by `make docs`: change the signals, not this file.
"""

'''


def module() -> str:
    """The module's text."""
    prefixes = {*PREFIXES[Ends.ONE], *PREFIXES[Ends.BOTH]}
    ends = {prefix + one.name for prefix in prefixes for one in END_ATTRIBUTES}
    own = {one.name for signal in SIGNALS for one in signal.attributes}
    groups = (
        ("Metrics", "Names of metrics.", (s.name for s in SIGNALS if isinstance(s, Metric))),
        ("Events", "Names of events.", (s.name for s in SIGNALS if isinstance(s, Event))),
        ("Attributes", "Keys of attributes, on points and on events.", own | ends),
    )
    text = HEAD + f'SCHEMA_URL = "{SCHEMA_URL}"\n'
    return text + "".join("\n\n" + "\n".join(_class(*group)) + "\n" for group in groups)


def _class(name: str, brief: str, values: Iterable[str]) -> Iterator[str]:
    yield f"class {name}:"
    yield f'    """{brief}"""'
    yield ""
    for value in sorted(values):
        yield f'    {value.upper().replace(".", "_")} = "{value}"'


def main() -> int:
    if "--check" in sys.argv:
        return int(MODULE.read_text(encoding="utf-8") != module())
    MODULE.write_text(module(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

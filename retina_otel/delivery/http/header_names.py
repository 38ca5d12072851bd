"""Names of HTTP headers: what is one, and how much of what is none may be shown.

Who writes `Authorization: Bearer token` where a name belongs has put a secret there.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_header_name(text: str) -> bool:
    """Whether a text is a token, as HTTP wants names of headers to be."""
    return _TOKEN.fullmatch(text) is not None


def shown_name(text: str) -> str:
    """The beginning of a text that could be a header's name; the rest may be secret."""
    found = _TOKEN.match(text.strip())
    return found.group() if found else ""

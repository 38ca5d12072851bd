"""Content encodings of requests: gzip at level 1, zstd at level 1, none, and `auto`.

Level 1 because encoding is so cheap here that a higher level would be most of an export's cost.
`auto` begins with zstd and goes over to gzip when the backend shows that it does not know zstd.
"""

from __future__ import annotations

import gzip
from enum import Enum

_LEVEL = 1


class Compression(Enum):
    AUTO = "auto"
    GZIP = "gzip"
    ZSTD = "zstd"
    NONE = "none"


class Compressor:
    """Compresses request bodies, and remembers what the backend was able to read."""

    def __init__(self, compression: Compression) -> None:
        self._probing = compression is Compression.AUTO
        self._encoding = Compression.ZSTD if self._probing else compression
        self._falls_back = self._probing

    @property
    def encoding(self) -> Compression:
        return self._encoding

    def compress(self, body: bytes) -> tuple[bytes, str]:
        """The body to send, and its Content-Encoding ("" for none)."""
        if self._encoding is Compression.GZIP:
            return gzip.compress(body, _LEVEL, mtime=0), "gzip"
        if self._encoding is Compression.ZSTD:
            # Imported on first use: it costs memory that agents with gzip do not need to pay.
            import zstandard

            return zstandard.ZstdCompressor(level=_LEVEL).compress(body), "zstd"
        return body, ""

    def answered(self, status: int) -> bool:
        """Tells what a backend said; True if the same request shall go again in another encoding.

        A 415 names the encoding. A 400 may mean it too, but only until zstd has passed once.
        """
        if not self._falls_back or self._encoding is not Compression.ZSTD:
            return False
        if status == 415 or (status == 400 and self._probing):
            self._encoding = Compression.GZIP
            return True
        if 200 <= status < 300:
            self._probing = False
        return False

    def reconsider(self) -> None:
        """gzip was refused too, so it was not the encoding: zstd may be tried again."""
        if self._falls_back and self._probing:
            self._encoding = Compression.ZSTD

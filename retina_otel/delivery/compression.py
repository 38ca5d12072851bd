"""Content encodings of requests: gzip at level 1, zstd at level 1, snappy, none, and `auto`.

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
    SNAPPY = "snappy"
    """Its block format, without frames, as Prometheus' remote write wants it."""
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
        if self._encoding is Compression.SNAPPY:
            import cramjam

            return bytes(cramjam.snappy.compress_raw(body)), "snappy"
        return body, ""

    def outdated(self, encoding: str) -> bool:
        """Whether the backend was found not to read what a request is packed in."""
        return encoding == "zstd" and self._encoding is Compression.GZIP and self._falls_back

    def answered(self, status: int, encoding: str) -> bool:
        """Tells what a backend said to a request in `encoding`; True if the same one shall go again
        in another.

        A 415 names the encoding. A 400 may mean it too, but only until zstd has passed once.
        """
        if not self._falls_back or encoding != "zstd":
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


def decompress(data: bytes, encoding: str, size: int) -> bytes:
    """What a Compressor made `data` of: `size` bytes."""
    if encoding == "gzip":
        return gzip.decompress(data)
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    if encoding == "snappy":
        import cramjam

        return bytes(cramjam.snappy.decompress_raw(data, output_len=size))
    return data

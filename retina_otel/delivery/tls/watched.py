"""Files that may be replaced while the agent runs: tokens, certificates, keys.

A change is seen by what `stat` tells, so that asking before each request costs microseconds. A
volume of Kubernetes swaps a link, which shows as another inode.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from retina_otel.errors import ConfigError

_LARGEST_SECRET = 64 << 10
Stamp = tuple[int, int, int] | None


class FileChanges:
    """Tells once of each change of any of some files."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(path for path in paths if path)
        self._seen = self._stamps()

    def changed(self) -> bool:
        """Whether any file is another than when last asked; it came, went, or was replaced."""
        if not self._paths:
            return False
        before, self._seen = self._seen, self._stamps()
        return before != self._seen

    def _stamps(self) -> tuple[Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


class SecretFile:
    """One line of secret text, read again when its file changes. Not in any repr or message."""

    def __init__(self, path: str, setting: str) -> None:
        """Raises ConfigError, which names path and setting, if there is no such text now."""
        self._path = path
        self._setting = setting
        self._changes = FileChanges([path])
        self._text: str | None = self._read()

    def text(self) -> str:
        """The text as it now is. Raises ConfigError while the file can't be used."""
        if self._text is None or self._changes.changed():
            self._text = None
            self._text = self._read()
        return self._text

    def read_again(self) -> None:
        """The next `text` reads the file whatever `stat` says of it."""
        self._text = None

    def _read(self) -> str:
        remedy = f"Check {self._setting} and that the agent may read the file"
        try:
            with Path(self._path).open("rb") as file:
                raw = file.read(_LARGEST_SECRET + 1)
        except OSError as error:
            raise ConfigError(f"{self._path} can't be read: {error.strerror}", remedy) from error
        try:
            text = raw.decode().strip()
        except UnicodeDecodeError:
            text = ""
        if not text or len(raw) > _LARGEST_SECRET or not text.isprintable():
            raise ConfigError(f"{self._path} does not hold one line of text", remedy)
        return text

"""Build hook of the wheel: makes the BPF objects when they are missing and clang is there.

A wheel without objects would install and then fail on every node, so that is refused. An editable
install (a developer's) makes none: `make objects` does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ObjectsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        sources = sorted((root / "bpf").glob("*.bpf.c"))
        missing = [
            source.name
            for source in sources
            if not any((root / "retina_otel" / "_bpf").glob(f"*/{source.stem}.o"))
        ]
        if missing and shutil.which("clang"):
            subprocess.run(["bash", str(root / "tools" / "build-objects")], check=True, cwd=root)
            missing = []
        if missing:
            raise RuntimeError(
                f"BPF objects are missing ({', '.join(missing)}): install clang, llvm and bpftool"
            )

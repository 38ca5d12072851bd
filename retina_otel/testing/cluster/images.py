"""Container images without a registry: one layer, written as an archive that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from retina_otel.testing.cluster.binaries import binary, node_file

BUSYBOX = "localhost/busybox:1"
"""Every applet, `/www/index.html` to serve, and `sleep` as its command: also the pause image."""
COREDNS = "localhost/coredns:1"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(
    archive: Path,
    name: str,
    files: Mapping[str, Path | bytes],
    *,
    links: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Writes an image of one layer, in the format of `docker save`.

    `files` and `links` are keyed by path inside the image, without a leading slash; links give
    their target. A file from disk keeps its mode, one from bytes gets 0644.
    """
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for path, content in files.items():
            _add(tar, path, content)
        for path, target in (links or {}).items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(link)
    with layer.open("rb") as read:
        digest = hashlib.file_digest(read, "sha256").hexdigest()
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Entrypoint": list(command),
            "Env": [f"{key}={value}" for key, value in (environment or {}).items()],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        _add(tar, "config.json", json.dumps(config).encode())
        tar.add(layer, "layer.tar")
    layer.unlink()
    return archive


def write_busybox(folder: Path) -> Path:
    """The image of all sample workloads."""
    busybox = node_file("bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    return write_image(
        folder / "busybox.tar",
        BUSYBOX,
        {
            "bin/busybox": Path(busybox),
            "www/index.html": b"hello from a pod\n",
            "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
            "tmp/.keep": b"",
        },
        links={f"bin/{applet}": "busybox" for applet in applets},
        command=["/bin/sleep", "2147483647"],
        environment={"PATH": "/bin"},
    )


def write_coredns(folder: Path) -> Path:
    """CoreDNS alone."""
    files = {"coredns": Path(binary("coredns"))}
    return write_image(folder / "coredns.tar", COREDNS, files, command=["/coredns"])


def _add(tar: tarfile.TarFile, path: str, content: Path | bytes) -> None:
    entry = tarfile.TarInfo(path)
    if isinstance(content, bytes):
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))
        return
    status = content.stat()
    entry.size, entry.mode = status.st_size, status.st_mode & 0o777
    with content.open("rb") as read:
        tar.addfile(entry, read)

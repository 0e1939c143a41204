"""Packs a directory: `zip.py DIR FILE`."""

import pathlib
import sys
import zipfile

with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED) as archive:
    for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
        if path.is_file():
            archive.write(path, path.relative_to(sys.argv[1]))

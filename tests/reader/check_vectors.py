"""Opens every public vector with the reader of this directory: `check_vectors.py tests/vectors`.

A vector passes if the verdict, the reason and what opens are those that it states.
"""

import base64
import hashlib
import json
import pathlib
import sys

from read_bundle import Refused, open_bundle

VECTORS_MIN = 100


def complaint(vector, directory):
    """What differs from what the vector states; None if nothing does."""
    stated = vector["expect"], vector.get("reason"), vector.get("files")
    found = verdict(vector, directory)
    return None if found == stated else f"states {stated}, found {found}"


def verdict(vector, directory):
    """What the reader makes of it: `(expect, reason, files)`, as the vector states them."""
    objects = {name: assemble(stored, directory) for name, stored in vector["objects"].items()}
    key = base64.b64decode(vector["key"])
    try:
        files = open_bundle(objects.get, key, vector["resource"], vector["demand"])
    except Refused as refused:
        return "refused", refused.reason, None
    return "opens", None, {path: describe(*file) for path, file in files.items()}


def assemble(stored, directory):
    """An object from base64, or from slices of a shared file."""
    if isinstance(stored, str):
        return base64.b64decode(stored)
    shared = (directory / stored["of"]).read_bytes()
    return b"".join(shared[start:end] for start, end in stored["slices"])


def describe(data, mode):
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "mode": mode}


def notices_planted_mistakes(vector, directory):
    """Whether a wrong expectation of this vector is noticed."""
    opens = vector["expect"] == "opens"
    wrong = [
        {"expect": "refused" if opens else "opens"},
        {"reason": "segment" if vector.get("reason") != "segment" else "header"},
        {"files": {}},
    ]
    return all(complaint({**vector, **mistake}, directory) for mistake in wrong)


def main():
    directory = pathlib.Path(sys.argv[1])
    passed = failed = 0
    for path in sorted(directory.glob("*.json")):
        vector = json.loads(path.read_bytes())
        why = complaint(vector, directory)
        if vector["name"] != path.stem:
            why = f"is named {vector['name']}"
        elif not notices_planted_mistakes(vector, directory):
            why = "would not be missed"
        if why:
            print(f"FAILED {path.name} {why}")
        passed, failed = passed + (not why), failed + bool(why)
    if passed + failed < VECTORS_MIN:
        failed += 1
        print(f"FAILED {directory} holds fewer than {VECTORS_MIN} vectors")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

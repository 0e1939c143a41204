"""Whole bundles against an independent implementation: jwcrypto, Tink and a page of Python."""

import base64
import hashlib
import json
import os
import pathlib
import tempfile

from sealed import associated_data, manifest_mac, statement, tink_open, unwrap, write_bundle
from suite import check, finish, memory_directory, run

RESOURCE = "kbs:///interop/model/key"
FILES = {
    "config.json": b'{"hidden_size": 384}',
    "empty": b"",
    "weights/model-00001.safetensors": os.urandom((1 << 20) - 56),
    "weights/model-00002.safetensors": os.urandom(3_000_000),
    "\u00e9t\u00e9.txt": b"UTF-8 in a name",
}


def write(directory, files):
    for path, data in files.items():
        target = pathlib.Path(directory) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def read(directory):
    directory = pathlib.Path(directory)
    found = (path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}
    return {name: data for name, data in names.items() if not name.startswith(".sealift")}


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        key = scratch / "key.jwk"
        keygen = "keygen", "--resource-id", RESOURCE, "--model", "interop", "--key-file", key
        run("sealift", *keygen)
        with_key = "--resource-id", RESOURCE, "--key-file", key
        with check("an independent reader opens our bundle"):
            model, sealed = scratch / "model", scratch / "sealed"
            write(model, FILES)
            run("sealift", "seal", model, sealed, "--name", "interop", *with_key)
            assert independent_open(key, read(sealed)) == FILES
        for algorithm in "A256KW", "A256GCMKW":
            with check(f"we open an independent writer's bundle: {algorithm}"):
                foreign = scratch / algorithm
                dek, bundle_id = os.urandom(32), os.urandom(16).hex()
                write(foreign, write_bundle(key, bundle_id, dek, "interop", FILES, algorithm))
                with memory_directory() as opened:
                    run("sealift", "open", foreign, opened, *with_key)
                    assert read(opened) == FILES
                run("sealift", "verify", foreign)
    finish()


def independent_open(key, objects):
    bundle = json.loads(objects.pop("sealift.json"))
    dek = unwrap(key, bundle)
    payload = base64.b64decode(bundle["envelope"]["payload"], validate=True)
    signatures = {s["keyid"]: s["sig"] for s in bundle["envelope"]["signatures"]}
    predicate = statement(bundle)["predicate"]
    bundle_id = predicate["bundleId"]
    mac = manifest_mac(dek, bundle_id, payload)
    assert base64.b64decode(signatures["sealift-dek"], validate=True) == mac
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement(bundle)["subject"]}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in objects.items()} == subjects
    opened = {}
    for file in predicate["files"]:
        sealed = objects[file["object"]]
        assert base64.b64decode(file["header"], validate=True) == sealed[:40]
        path = file["path"]
        opened[path] = tink_open(dek, associated_data(bundle_id, path), sealed)
        assert len(opened[path]) == file["size"]
    return opened


main()

"""Upstream's encrypted models, made by jwcrypto as upstream reads them, converted to bundles."""

import json
import os
import pathlib
import tempfile

from jwcrypto import jwe, jwk

from sealed import base64url
from suite import Refused, check, finish, memory_directory, refuses, run

OLD, NEW = "kbs:///interop/upstream/key", "kbs:///interop/model/key"
FILES = {
    "config.json": b'{"hidden_size": 384}',
    "weights/model-00001.safetensors": os.urandom((3 << 20) + 1),
    "\u00e9t\u00e9.txt": b"UTF-8 in a name",
}


def token(plaintext, key, alg, enc="A256GCM", **protected):
    made = jwe.JWE(plaintext, json.dumps({"alg": alg, "enc": enc, **protected}))
    made.add_recipient(jwk.JWK(kty="oct", k=base64url(key)))
    return made.serialize(compact=True)


def write(directory, key, *arguments, **protected):
    for path, data in FILES.items():
        target = directory / (path + ".jwe")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(token(data, key, *arguments, **protected))


def read(directory):
    found = (path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}
    return {name: data for name, data in names.items() if not name.startswith(".sealift")}


def convert(scratch, tokens, sealed, new):
    with_keys = "--jwe-key", f"{OLD}={scratch / 'old'}", "--resource-id", NEW, "--key-file", new
    run("sealift", "seal", "--from-jwe", tokens, sealed, "--name", "interop", *with_keys)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        key, new = os.urandom(32), scratch / "new.jwk"
        run("sealift", "keygen", "--resource-id", NEW, "--model", "interop", "--key-file", new)
        forms = {
            "raw": key,
            "base64url": base64url(key).encode(),
            "jwk": json.dumps({"kty": "oct", "k": base64url(key)}).encode(),
        }
        for alg in "A256KW", "A256GCMKW", "dir":
            for form, octets in forms.items():
                with check(f"jwcrypto's {alg} tokens under a {form} key become a bundle"):
                    (scratch / "old").write_bytes(octets)
                    tokens, sealed = scratch / f"{alg}-{form}", scratch / f"{alg}-{form}.sealed"
                    write(tokens, key, alg)
                    convert(scratch, tokens, sealed, new)
                    with memory_directory() as opened:
                        run("sealift", "open", sealed, opened, "--resource-id", NEW, "--key-file", new)
                        assert read(opened) == FILES
        refused = {
            "another key": (os.urandom(32), ("A256KW",), {}),
            "compression": (key, ("A256KW",), {"zip": "DEF"}),
            "a cipher of CBC": (key, ("A256KW", "A256CBC-HS512"), {}),
        }
        for what, (other, arguments, protected) in refused.items():
            with check(f"jwcrypto's tokens with {what} are refused, and nothing is written"):
                tokens, sealed = scratch / what, scratch / f"{what}.sealed"
                write(tokens, other, *arguments, **protected)
                refuses(lambda: convert(scratch, tokens, sealed, new), Refused)
                assert not sealed.exists()
    finish()


main()

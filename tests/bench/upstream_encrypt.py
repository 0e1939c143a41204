"""Encrypts every file below FROM for upstream's storage initializer: `upstream_encrypt.py KEY_HEX FROM TO`.

One JWE a file, A256KW and A256GCM as upstream documents it, in compact form. Written with the cipher
library itself, since jwcrypto would need seven times the file's size in memory.
"""

import base64
import json
import os
import pathlib
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def main():
    key, source, destination = bytes.fromhex(sys.argv[1]), sys.argv[2], sys.argv[3]
    for path in sorted(pathlib.Path(source).rglob("*")):
        if not path.is_file():
            continue
        target = pathlib.Path(destination) / (path.relative_to(source).as_posix() + ".jwe")
        target.parent.mkdir(parents=True, exist_ok=True)
        header = encode(json.dumps({"alg": "A256KW", "enc": "A256GCM"}).encode())
        content_key, iv = os.urandom(32), os.urandom(12)
        sealed = AESGCM(content_key).encrypt(iv, path.read_bytes(), header)
        with open(target, "wb") as file:
            parts = header, encode(aes_key_wrap(key, content_key)), encode(iv), encode(sealed[:-16])
            file.write(b".".join([*parts, encode(sealed[-16:])]))


main()

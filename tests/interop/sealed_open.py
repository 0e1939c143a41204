#!/usr/bin/env python3
"""Opens a sealed secret of Confidential Containers as upstream's data hub does: the signature by
jwcrypto, the envelope by cryptography. Annotations are passed over.

    python3 tests/interop/sealed_open.py KEYS sealed.…

KEYS is a directory with a file REPOSITORY/TYPE/TAG for each resource.
"""

import base64
import json
import pathlib
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from jwcrypto import jwk, jws


def resource(keys, uri):
    return (pathlib.Path(keys) / uri.removeprefix("kbs:///")).read_bytes()


def octets(jwk_text):
    text = json.loads(jwk_text)["k"]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main():
    keys, sealed = sys.argv[1:]
    token = jws.JWS()
    token.deserialize(sealed.removeprefix("sealed."))
    header = json.loads(token.objects["protected"])
    if set(header) != {"alg", "kid"} or header["alg"] != "ES256":
        sys.exit(f"header {header}")
    token.allowed_algs = ["ES256"]
    token.verify(jwk.JWK.from_json(resource(keys, header["kid"]).decode()))
    payload = json.loads(token.payload)
    common = {"version", "type", "provider", "provider_settings", "annotations"}
    if (payload["version"], payload["provider"]) != ("0.1.0", "kbs"):
        sys.exit("version or provider")
    if payload["type"] == "vault":
        assert set(payload) == common | {"name"}, set(payload)
        secret = resource(keys, payload["name"])
    else:
        members = {"key_id", "encrypted_key", "encrypted_data", "wrap_type", "iv"}
        assert set(payload) == common | members, set(payload)
        assert payload["wrap_type"] == "A256GCM"
        decoded = {name: base64.b64decode(payload[name], validate=True) for name in
                   ("encrypted_key", "encrypted_data", "iv")}
        key = aes_key_unwrap(octets(resource(keys, payload["key_id"])), decoded["encrypted_key"])
        secret = AESGCM(key).decrypt(decoded["iv"], decoded["encrypted_data"], None)
    sys.stdout.buffer.write(secret)


if __name__ == "__main__":
    main()

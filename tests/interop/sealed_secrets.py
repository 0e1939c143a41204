#!/usr/bin/env python3
"""Prints sealed secrets as Confidential Containers defines them, made with Python's cryptography.

    python3 tests/interop/sealed_secrets.py >crates/keys/src/sealed/python.json

Needs the package cryptography (47 or newer). Keys are fixed; signatures are random, so each run
prints other texts, all of which `keys::sealed` has to open.
"""

import base64
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

SECRET = b"correct horse battery staple"
KEK = bytes(range(32))
DEK = bytes(range(100, 132))
IV = bytes(range(200, 216))


def url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def std(data):
    return base64.b64encode(data).decode()


def sign(key, payload):
    header = {"alg": "ES256", "kid": "kbs:///team/signer/python"}
    signed = ".".join(url(json.dumps(part).encode()) for part in (header, payload))
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"sealed.{signed}.{url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def envelope(wrap_type, data, iv):
    return {
        "version": "0.1.0", "type": "envelope", "key_id": "kbs:///team/kek/python",
        "encrypted_key": std(aes_key_wrap(KEK, DEK)), "encrypted_data": std(data),
        "wrap_type": wrap_type, "iv": std(iv),
        "provider": "kbs", "provider_settings": {}, "annotations": {},
    }


def main():
    key = ec.derive_private_key(0x5EA11F7, ec.SECP256R1())
    public = key.public_key().public_numbers()
    ctr = Cipher(algorithms.AES(DEK), modes.CTR(IV)).encryptor()
    vault = {
        "version": "0.1.0", "type": "vault", "name": "kbs:///team/secret/python",
        "provider": "kbs", "provider_settings": {}, "annotations": {},
    }
    print(json.dumps({
        "jwk": {
            "kty": "EC", "crv": "P-256",
            "x": url(public.x.to_bytes(32, "big")), "y": url(public.y.to_bytes(32, "big")),
        },
        "kek": KEK.hex(),
        "secret": SECRET.decode(),
        "vault": sign(key, vault),
        "gcm": sign(key, envelope("A256GCM", AESGCM(DEK).encrypt(IV[:12], SECRET, None), IV[:12])),
        "bound": sign(key, {**vault, "annotations": {"sealift.audience": {
            "namespace": "team-a", "service_account": "db", "key": "password",
            "expires": "2999-01-01T00:00:00Z",
        }}}),
        "ctr": sign(key, envelope("A256CTR", ctr.update(SECRET) + ctr.finalize(), IV)),
    }, indent=2))


if __name__ == "__main__":
    main()

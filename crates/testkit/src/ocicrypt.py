"""Encrypts a layer as ocicrypt and Confidential Containers' key provider do (containers/ocicrypt,
blockcipher; guest-components, coco_keyprovider), with OpenSSL by way of `cryptography`.

In:  {"kid", "kek": hex, "plaintext": hex}, or {"kid", "kek": hex, "jwe", "pem"} to wrap anew what
     another program has encrypted for an RSA key.
Out: {"packet": base64} and, if it encrypted itself, {"ciphertext": hex, "pubopts": base64}.
"""

import base64
import hashlib
import hmac
import json
import os
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def b64(data):
    return base64.b64encode(data).decode()


asked = json.load(sys.stdin)
answer = {}
if "jwe" in asked:
    from jwcrypto import jwe, jwk

    token = jwe.JWE(algs=["RSA-OAEP", "A256GCM"])
    token.deserialize(base64.b64decode(asked["jwe"]).decode())
    token.decrypt(jwk.JWK.from_pem(asked["pem"].encode()))
    options = token.payload
else:
    plaintext, key, nonce = bytes.fromhex(asked["plaintext"]), os.urandom(32), os.urandom(16)
    ciphertext = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(plaintext)
    digest = "sha256:" + hashlib.sha256(plaintext).hexdigest()
    private = {"symkey": b64(key), "cipheroptions": {"nonce": b64(nonce)}, "digest": digest}
    mac = hmac.digest(key, ciphertext, "sha256")
    public = {"cipher": "AES_256_CTR_HMAC_SHA256", "cipheroptions": {}, "hmac": b64(mac)}
    options = json.dumps(private).encode()
    answer = {"ciphertext": ciphertext.hex(), "pubopts": b64(json.dumps(public).encode())}
iv = os.urandom(12)
packet = {
    "kid": asked["kid"],
    "wrapped_data": b64(AESGCM(bytes.fromhex(asked["kek"])).encrypt(iv, options, None)),
    "iv": b64(iv),
    "wrap_type": "A256GCM",
}
answer["packet"] = b64(json.dumps(packet).encode())
json.dump(answer, sys.stdout)

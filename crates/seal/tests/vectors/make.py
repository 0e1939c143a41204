#!/usr/bin/env python3
"""Writes the vectors beside it with other people's cryptography, from docs/format.md alone.

Needs tink 1.16, jwcrypto 1.5 and cryptography. Every run makes new random vectors; the tests hold
for any run. Nothing here is imported from Sealift.
"""
import base64, hashlib, hmac, io, json, os, pathlib, struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from jwcrypto import jwe, jwk
import tink
from tink import secret_key_access, streaming_aead

HERE = pathlib.Path(__file__).parent
SEGMENT, HEADER, TAG = 1 << 20, 40, 16
streaming_aead.register()


def b64(data): return base64.b64encode(data).decode()
def b64u(data): return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
def compact(document): return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
def pattern(length): return bytes((i * 7 + (i >> 8)) & 0xFF for i in range(length))


class Keep(io.BytesIO):
    def close(self): self.data = self.getvalue()


def keyset_of(dek):
    value = bytes.fromhex("12080880804010201803" "1a20") + dek
    return json.dumps({"primaryKeyId": 1, "key": [{
        "keyData": {"typeUrl": "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
                    "value": b64(value), "keyMaterialType": "SYMMETRIC"},
        "status": "ENABLED", "keyId": 1, "outputPrefixType": "RAW"}]}, separators=(",", ":"))


def tink_encrypt(keyset, plaintext, associated_data):
    handle = tink.json_proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    sink = Keep()
    with handle.primitive(streaming_aead.StreamingAead).new_encrypting_stream(sink, associated_data) as stream:
        stream.write(plaintext)
    return sink.data


def tink_vectors():
    handle = tink.new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB)
    keyset = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    value = json.loads(keyset)["key"][0]["keyData"]["value"]
    first, later = SEGMENT - HEADER - TAG, SEGMENT - TAG
    files = []
    for length in [0, 1, 1000, first - 1, first, first + 1, first + later, first + later + 1, first + 2 * later + 5]:
        associated_data = f"sealift/v1\n{'0123456789abcdef' * 2}\nfile-{length}"
        ciphertext = tink_encrypt(keyset, pattern(length), associated_data.encode())
        files.append({"associated_data": associated_data, "bytes": length, "header": b64(ciphertext[:HEADER]),
                      "sha256": hashlib.sha256(ciphertext).hexdigest()})
    return {"keyset_value": value, "dek": b64(base64.b64decode(value)[-32:]), "files": files}


def jwe_vectors():
    tokens = []
    algs = {"dir": None, "A128KW": 16, "A192KW": 24, "A256KW": 32, "A128GCMKW": 16, "A192GCMKW": 24, "A256GCMKW": 32}
    encs = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
    for alg, key_bytes in algs.items():
        for enc, enc_bytes in encs.items():
            k = os.urandom(key_bytes or enc_bytes)
            token = jwe.JWE(b"a key, or a small file", json.dumps({"alg": alg, "enc": enc, "kid": "k"}))
            token.add_recipient(jwk.JWK(kty="oct", k=b64u(k)))
            tokens.append({"alg": alg, "enc": enc, "k": b64u(k), "token": token.serialize(compact=True)})
    guest = jwk.JWK.generate(kty="EC", crv="P-256")
    token = jwe.JWE(b"a released key", json.dumps({"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}))
    token.add_recipient(guest)
    return {"symmetric": tokens, "guest": {**json.loads(guest.export()), "token": token.serialize(compact=True)}}


def recipient(kid, kek, dek, bundle_id, gcm):
    header = {"alg": "A256GCMKW" if gcm else "A256KW", "enc": "A256GCM", "kid": kid}
    cek, iv = os.urandom(32), os.urandom(12)
    if gcm:
        wrap_iv = os.urandom(12)
        wrapped = AESGCM(kek).encrypt(wrap_iv, cek, b"")
        header["iv"], header["tag"] = b64u(wrap_iv), b64u(wrapped[32:])
        wrapped = wrapped[:32]
    else:
        wrapped = aes_key_wrap(kek, cek)
    protected, aad = b64u(compact(header)), b64u(f"sealift/v1\n{bundle_id}".encode())
    sealed = AESGCM(cek).encrypt(iv, dek, f"{protected}.{aad}".encode())
    return {"kid": kid, "jwe": {"protected": protected, "encrypted_key": b64u(wrapped), "aad": aad,
                                "iv": b64u(iv), "ciphertext": b64u(sealed[:-16]), "tag": b64u(sealed[-16:])}}


def bundle_vector():
    dek, bundle_id = os.urandom(32), os.urandom(16).hex()
    plain = {"config.json": b'{"a": 1}\n', "empty": b"", "run \"me\".sh": b"#!/bin/sh\n", "weights/ünï.bin": pattern(1000)}
    sealed = {path: tink_encrypt(keyset_of(dek), data, f"sealift/v1\n{bundle_id}\n{path}".encode())
              for path, data in plain.items()}
    paths = sorted(plain, key=lambda path: path.encode())
    payload = compact({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": f"{p}.sealed", "digest": {"sha256": hashlib.sha256(sealed[p]).hexdigest()}} for p in paths],
        "predicateType": "urn:sealift:bundle:v1",
        "predicate": {
            "format": "sealift/v1", "bundleId": bundle_id, "name": "org/model", "generation": 3,
            "cipher": "AES256_GCM_HKDF_1MB", "created": "2026-11-22T07:20:50Z",
            "files": [{"path": p, "mode": "0755" if p.endswith(".sh") else "0644", "size": len(plain[p]),
                       "object": f"{p}.sealed", "header": b64(sealed[p][:HEADER])} for p in paths]}})
    kind = "application/vnd.in-toto+json"
    pae = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    mac_key = HKDF(SHA256(), 32, None, f"sealift/v1 manifest\n{bundle_id}".encode()).derive(dek)
    keks = {"kbs:///default/key/a": os.urandom(32), "kbs:///default/key/b": os.urandom(32)}
    document = compact({
        "format": "sealift/v1",
        "recipients": [recipient(kid, kek, dek, bundle_id, kid.endswith("b")) for kid, kek in keks.items()],
        "envelope": {"payload": b64(payload), "payloadType": kind, "signatures": [
            {"keyid": "sealift-dek", "sig": b64(hmac.digest(mac_key, pae, "sha256"))},
            {"keyid": "publisher", "sig": b64(b"not ours to verify")}]}}) + b"\n"
    pins = {"org/model": {"min_generation": 3, "digests": ["sha256:" + hashlib.sha256(payload).hexdigest()]}}
    return {"keys": [{"kty": "oct", "k": b64u(kek), "kid": kid, "sealift": pins} for kid, kek in keks.items()],
            "plain": {path: b64(data) for path, data in plain.items()},
            "objects": {"sealift.json": document.decode(), **{f"{p}.sealed": b64(sealed[p]) for p in paths}}}


for name, vector in {"tink": tink_vectors(), "jwe": jwe_vectors(), "bundle": bundle_vector()}.items():
    (HERE / f"{name}.json").write_text(json.dumps(vector, indent=1, ensure_ascii=False) + "\n")

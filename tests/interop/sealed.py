"""The bundle format by other people's code: JOSE by jwcrypto, segments by Tink, the rest by hand.

Shared by the suites here; `docs/format.md` is what it follows.
"""

import base64
import hashlib
import hmac
import io
import json
import os

import tink
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwcrypto import jwe, jwk
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

SEGMENT = 1 << 20
HEADER = 40
TAG = 16
PAYLOAD_TYPE = "application/vnd.in-toto+json"

streaming_aead.register()


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def octets(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def keyset(dek):
    """The data key as a cleartext Tink keyset, in JSON."""
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=SEGMENT, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
        ),
        key_value=dek,
    )
    value = base64.b64encode(key.SerializeToString()).decode()
    url = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
    data = {"typeUrl": url, "value": value, "keyMaterialType": "SYMMETRIC"}
    entry = {"keyData": data, "status": "ENABLED", "keyId": 1, "outputPrefixType": "RAW"}
    return json.dumps({"primaryKeyId": 1, "key": [entry]})


def primitive(dek):
    """Tink's streaming AEAD under the data key."""
    handle = tink.json_proto_keyset_format.parse(keyset(dek), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


class Kept(io.BytesIO):
    """What a stream wrote, although the stream closes it."""

    def close(self):
        pass


def tink_seal(dek, associated_data, plaintext):
    output = Kept()
    with primitive(dek).new_encrypting_stream(output, associated_data) as stream:
        stream.write(plaintext)
    return output.getvalue()


def tink_open(dek, associated_data, sealed):
    with primitive(dek).new_decrypting_stream(io.BytesIO(sealed), associated_data) as stream:
        return stream.read()


def associated_data(bundle_id, path):
    return f"sealift/v1\n{bundle_id}\n{path}".encode()


def unwrap(key_file, bundle):
    """The data key of a parsed `sealift.json`, with the JWK in `key_file`."""
    with open(key_file) as file:
        document = json.load(file)
    wrapped = next(r for r in bundle["recipients"] if r["kid"] == document["kid"])["jwe"]
    token = jwe.JWE()
    token.deserialize(json.dumps(wrapped), jwk.JWK(kty="oct", k=document["k"]))
    return token.payload


def canonical(document):
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def wrap(key_file, bundle_id, dek, algorithm):
    """A recipient of the data key for the JWK in `key_file`."""
    with open(key_file) as file:
        document = json.load(file)
    protected = {"alg": algorithm, "enc": "A256GCM", "kid": document["kid"]}
    aad = f"sealift/v1\n{bundle_id}"
    if algorithm == "A256KW":
        token = jwe.JWE(dek, canonical(protected).decode(), aad=aad)
        token.add_recipient(jwk.JWK(kty="oct", k=document["k"]))
        token = json.loads(token.serialize())
    else:
        token = wrap_gcm(octets(document["k"]), protected, aad, dek)
    members = "protected", "encrypted_key", "aad", "iv", "ciphertext", "tag"
    return {"kid": document["kid"], "jwe": {member: token[member] for member in members}}


def wrap_gcm(key, protected, aad, dek):
    """A256GCMKW by hand: jwcrypto puts its `iv` and `tag` where nothing authenticates them."""
    content_key, key_iv, iv = os.urandom(32), os.urandom(12), os.urandom(12)
    wrapped = AESGCM(key).encrypt(key_iv, content_key, None)
    header = {**protected, "iv": base64url(key_iv), "tag": base64url(wrapped[-TAG:])}
    encoded, aad = base64url(canonical(header)), base64url(aad.encode())
    sealed = AESGCM(content_key).encrypt(iv, dek, f"{encoded}.{aad}".encode())
    return {
        "protected": encoded,
        "encrypted_key": base64url(wrapped[:-TAG]),
        "aad": aad,
        "iv": base64url(iv),
        "ciphertext": base64url(sealed[:-TAG]),
        "tag": base64url(sealed[-TAG:]),
    }


def statement(bundle):
    return json.loads(base64.b64decode(bundle["envelope"]["payload"], validate=True))


def manifest_mac(dek, bundle_id, payload):
    info = f"sealift/v1 manifest\n{bundle_id}".encode()
    key = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(dek)
    encoding = b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )
    return hmac.digest(key, encoding, "sha256")


def write_bundle(key_file, bundle_id, dek, name, files, algorithm):
    """A whole bundle: object names and their bytes, `sealift.json` among them."""
    objects, subjects, entries = {}, [], []
    for path in sorted(files, key=str.encode):
        plaintext = files[path]
        sealed = tink_seal(dek, associated_data(bundle_id, path), plaintext)
        objects[f"{path}.sealed"] = sealed
        digest = hashlib.sha256(sealed).hexdigest()
        subjects.append({"name": f"{path}.sealed", "digest": {"sha256": digest}})
        entries.append(
            {
                "path": path,
                "mode": "0644",
                "size": len(plaintext),
                "object": f"{path}.sealed",
                "header": base64.b64encode(sealed[:HEADER]).decode(),
            }
        )
    payload = canonical(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects,
            "predicateType": "urn:sealift:bundle:v1",
            "predicate": {
                "format": "sealift/v1",
                "bundleId": bundle_id,
                "name": name,
                "generation": 1,
                "cipher": "AES256_GCM_HKDF_1MB",
                "created": "2026-01-01T00:00:00Z",
                "files": entries,
            },
        }
    )
    signature = manifest_mac(dek, bundle_id, payload)
    bundle = {
        "format": "sealift/v1",
        "recipients": [wrap(key_file, bundle_id, dek, algorithm)],
        "envelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": "sealift-dek", "sig": base64.b64encode(signature).decode()}
            ],
        },
    }
    objects["sealift.json"] = canonical(bundle) + b"\n"
    return objects

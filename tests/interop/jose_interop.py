"""JWE and JWK against jwcrypto: recipients, broker responses, and the tokens that we read."""

import json
import os
import subprocess

from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

from sealed import base64url, octets
from suite import PROGRAMS, Refused, check, finish, refuses

KID = "kbs:///interop/model/key"


class Ours:
    """The program `josefile`: a request and an answer a line."""

    def __init__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([PROGRAMS / "josefile"], stdin=pipe, stdout=pipe, text=True)

    def ask(self, do, **members):
        self.process.stdin.write(json.dumps({"do": do, **members}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer

    def decrypt(self, token, key, **members):
        answer = self.ask("decrypt", token=token, key=base64url(key), **members)
        return octets(answer["plaintext"])


def key_of(octets):
    return jwk.JWK(kty="oct", k=base64url(octets))


def theirs(plaintext, key, **protected):
    """A token of jwcrypto's in compact form, so with every parameter in its protected header."""
    token = jwe.JWE(plaintext, json.dumps({"kid": KID, **protected}))
    token.add_recipient(key)
    return token.serialize(compact=True)


def flattened(compact):
    members = "protected", "encrypted_key", "iv", "ciphertext", "tag"
    return {name: part for name, part in zip(members, compact.split("."), strict=True) if part}


def symmetric(ours):
    plaintext, key = os.urandom(32), os.urandom(32)
    for wrap in "A256KW", "A256GCMKW":
        for aad in None, b"sealift/v1\n00112233445566778899aabbccddeeff":
            members = {} if aad is None else {"aad": base64url(aad)}
            with check(f"jwcrypto opens ours: {wrap}, aad {aad}"):
                request = {"plaintext": base64url(plaintext), "key": base64url(key), **members}
                token = ours.ask("encrypt", wrap=wrap, kid=KID, **request)["token"]
                opened = jwe.JWE()
                opened.deserialize(json.dumps(token), key_of(key))
                assert opened.payload == plaintext
                assert opened.jose_header["kid"] == KID
            with check(f"we refuse ours with other aad: {wrap}, aad {aad}"):
                text = json.dumps(token)
                refuses(lambda: ours.decrypt(text, key, aad=base64url(b"other")), Refused)
    with check("we open jwcrypto's with aad"):
        token = jwe.JWE(plaintext, json.dumps({"alg": "A256KW", "enc": "A256GCM"}), aad="aad")
        token.add_recipient(key_of(key))
        assert ours.decrypt(token.serialize(), key, aad=base64url(b"aad")) == plaintext
    for enc, size in ("A128GCM", 16), ("A192GCM", 24), ("A256GCM", 32):
        for alg in "dir", "A128KW", "A192KW", "A256KW", "A128GCMKW", "A192GCMKW", "A256GCMKW":
            key = os.urandom(size if alg == "dir" else int(alg[1:4]) // 8)
            compact = theirs(plaintext, key_of(key), alg=alg, enc=enc)
            for token in compact, json.dumps(flattened(compact)):
                form = "compact" if token is compact else "flattened"
                with check(f"we open jwcrypto's {form} {alg} {enc}"):
                    assert ours.decrypt(token, key) == plaintext
                with check(f"we refuse jwcrypto's {form} {alg} {enc} under another key"):
                    refuses(lambda: ours.decrypt(token, os.urandom(len(key))), Refused)


def refused(ours):
    key = os.urandom(32)
    cases = {
        "compressed content": {"alg": "A256KW", "enc": "A256GCM", "zip": "DEF"},
        "a password": {"alg": "PBES2-HS512+A256KW", "enc": "A256GCM"},
        "a cipher in CBC mode": {"alg": "A256KW", "enc": "A256CBC-HS512"},
    }
    for what, protected in cases.items():
        with check(f"we refuse {what}"):
            token = theirs(b"x" * 32, key_of(key), **protected)
            refuses(lambda: ours.decrypt(token, key), Refused)
    with check("we refuse parameters that nothing authenticates"):
        token = jwe.JWE(b"x" * 32, json.dumps({"enc": "A256GCM"}))
        token.add_recipient(key_of(key), json.dumps({"alg": "A256KW"}))
        refuses(lambda: ours.decrypt(token.serialize(), key), Refused)


def asymmetric(ours):
    plaintext = os.urandom(32)
    keys = {
        "P-256": {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW"},
        "P-521": {"kty": "EC", "crv": "P-521", "alg": "ECDH-ES+A256KW"},
        "RSA-2048": {"kty": "RSA", "size": 2048, "alg": "RSA-OAEP-256"},
        "RSA-4096": {"kty": "RSA", "size": 4096, "alg": "RSA-OAEP-256"},
    }
    for name, parameters in keys.items():
        key = jwk.JWK.generate(**parameters)
        public = key.export_public(as_dict=True)
        with check(f"jwcrypto opens our response to its {name} key"):
            token = ours.ask("encrypt-to", jwk=public, plaintext=base64url(plaintext))["token"]
            opened = jwe.JWE()
            opened.deserialize(json.dumps(token), key)
            assert opened.payload == plaintext
        with check(f"jwcrypto refuses our response to its {name} key under another"):
            other = jwk.JWK.generate(**parameters)
            refuses(lambda: jwe.JWE().deserialize(json.dumps(token), other), JWException)
    for kind, alg in [("P-256", "ECDH-ES+A256KW"), ("P-521", "ECDH-ES+A256KW"), ("RSA", "RSA-OAEP-256")]:
        with check(f"we open jwcrypto's response to our {kind} key"):
            public = ours.ask("key-pair", kind=kind)["jwk"]
            token = theirs(plaintext, jwk.JWK(**public), alg=alg, enc="A256GCM")
            answer = ours.ask("decrypt-response", token=flattened(token))
            assert octets(answer["plaintext"]) == plaintext


def main():
    ours = Ours()
    symmetric(ours)
    refused(ours)
    asymmetric(ours)
    ours.process.stdin.close()
    with check("the program ends well"):
        assert ours.process.wait() == 0
    finish()


main()

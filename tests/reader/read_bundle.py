"""Opens a sealed bundle: a second reader, written from docs/format.md alone.

It finds out whether that page is enough. It shares nothing with our own reader, holds everything in
memory and is in no hurry. Section numbers are those of that page, reasons for refusal those of
tests/vectors/README.md.
"""

import argparse
import base64
import hashlib
import hmac
import json
import pathlib
import re
import sys
import urllib.parse

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

FORMAT = "sealift/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:sealift:bundle:v1"
CIPHER = "AES256_GCM_HKDF_1MB"
SIGNER = "sealift-dek"
PURPOSES = ("open", "seal", "secret", "sign")

BUNDLE_BYTES_MAX = 8 << 20
FILES_MAX = 16_384
SEGMENTS_MAX = 2**32 - 1
OBJECTS_BYTES_MAX = 2**53 - 1
GENERATION_MAX = 2**53 - 1
RECIPIENTS_MAX = 16
FURTHER_SIGNATURES_MAX = 16
KEY_BYTES_MAX = 65_536
KEY_VALUES_MAX = 16_384
WRAPPED_KEY_BYTES_MAX = 6_144
KEY_URI_BYTES_MAX = 1_024

SEGMENT, HEADER, TAG = 1 << 20, 40, 16
FIRST = SEGMENT - HEADER - TAG
LATER = SEGMENT - TAG

NAME = "[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}"
MOUNT = rf"vault:///{NAME}(/(?!(keys|data)/){NAME})*"
REGION = "[a-z0-9-]{1,32}"
KMS_KEY, KMS_ALIAS = "[A-Za-z0-9-]{1,128}", "alias/[A-Za-z0-9/_-]{1,250}"
CHARACTER = "([A-Za-z0-9._~-]|%[0-9A-F]{2})"
# What a broker serves that is no plugin.
NO_PLUGIN = "(auth|attest|resource|resource-policy|attestation-policy|reference-value)"
PLUGIN = rf"kbs\+(?!{NO_PLUGIN}:)[a-z][a-z0-9-]{{0,62}}://(/{NAME}){{1,8}}"
# Whoever has its public half can wrap for it.
PUBLIC = re.compile(r"kbs\+pkcs11:///wrap-key")
LOWER, WORD = "[a-z0-9-]{1,63}", "[A-Za-z0-9_-]{1,63}"
AZURE = r"(managedhsm|vault)\.(azure\.net|azure\.cn|usgovcloudapi\.net)"
RELEASED = re.compile(
    rf"kbs://(/{NAME}){{3}}|{MOUNT}/data(/{NAME})+#{NAME}|(?!{PUBLIC.pattern}$){PLUGIN}"
)
UNWRAPPING = re.compile(
    rf"{MOUNT}/keys/{NAME}"
    rf"|awskms:///{REGION}/({KMS_KEY}|{KMS_ALIAS})"
    rf"|awskms:///arn:{REGION}:kms:{REGION}:[0-9]{{12}}:(key/{KMS_KEY}|{KMS_ALIAS})"
    rf"|gcpkms:///projects/{LOWER}/locations/{LOWER}/keyRings/{WORD}/cryptoKeys/{WORD}"
    rf"|azurekms:///[a-z0-9-]{{1,24}}\.{AZURE}/keys/[A-Za-z0-9-]{{1,127}}(/[0-9a-f]{{32}})?"
    rf"|{PUBLIC.pattern}"
    rf"|pkcs11:token={CHARACTER}{{1,32}};(object={CHARACTER}{{1,255}}|id=(%[0-9A-F]{{2}}){{1,255}})"
)
KEY_URI = re.compile(f"{RELEASED.pattern}|{UNWRAPPING.pattern}")
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")
BUNDLE_ID = re.compile(r"[0-9a-f]{32}")
SHA256 = re.compile(r"[0-9a-f]{64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Refused(Exception):
    """Bundle, key or pin is refused."""

    def __init__(self, reason, why):
        super().__init__(f"{reason}: {why}")
        self.reason = reason


def require(holds, why, reason="malformed"):
    if not holds:
        raise Refused(reason, why)


def open_bundle(read, key, resource, demand):
    """§10: `{path: (bytes, mode)}`; `read` gives an object by its name, or None."""
    document = read("sealift.json")
    require(document is not None, "there is no sealift.json", "not-sealed")
    bundle = Bundle(document)
    recipient = bundle.recipients.get(resource)
    require(recipient, f"not sealed for {resource}", "no-recipient")
    if matches(UNWRAPPING, resource):
        require(len(key) == 32, "what was unwrapped is not 32 bytes", "key-unusable")
        kek, key_pins = key, None
    else:
        kek, key_pins = read_key(key)
    dek = unwrap(recipient, kek)
    bundle.authenticate(dek)
    vouched = not matches(PUBLIC, resource) or demand.get("digests")
    require(vouched, f"anybody may wrap for {resource}", "unvouched")
    bundle.check_pins(demand, key_pins)
    return {f["path"]: (bundle.open_file(dek, f, read), f["mode"]) for f in bundle.files}


class Bundle:
    """`sealift.json`, checked as far as that needs no key (§2, §4 to §7)."""

    def __init__(self, document):
        require(len(document) <= BUNDLE_BYTES_MAX, "sealift.json is too large", "limit")
        if not document.startswith(b'{"format":"%s"' % FORMAT.encode()):
            refuse_foreign(document)
        require(document.endswith(b"\n"), "no newline at the end")
        top = canonical(document[:-1])
        members(top, "format recipients envelope")
        self.read_envelope(top["envelope"])
        self.read_manifest(canonical(self.payload))
        self.recipients = read_recipients(top["recipients"], self.associated_data)

    def read_envelope(self, envelope):
        members(envelope, "payload payloadType signatures")
        require(envelope["payloadType"] == PAYLOAD_TYPE, "another payloadType", "unsupported")
        self.payload = base64_standard(envelope["payload"])
        signatures = array(envelope["signatures"])
        for signature in signatures:
            members(signature, "keyid sig")
            require(isinstance(signature["keyid"], str), "a keyid is no string")
            signature["sig"] = base64_standard(signature["sig"])
        ours = [signature["sig"] for signature in signatures if signature["keyid"] == SIGNER]
        require(len(ours) == 1, f"{len(ours)} signatures {SIGNER}")
        require(len(signatures) - 1 <= FURTHER_SIGNATURES_MAX, "too many signatures")
        self.signature = ours[0]

    def read_manifest(self, manifest):
        members(manifest, "_type subject predicateType predicate")
        predicate = manifest["predicate"]
        members(predicate, "format bundleId name generation cipher created files")
        require(manifest["_type"] == STATEMENT_TYPE, "another _type", "unsupported")
        require(manifest["predicateType"] == PREDICATE_TYPE, "another predicateType", "unsupported")
        require(predicate["format"] == FORMAT, "another format in the manifest", "unsupported")
        require(predicate["cipher"] == CIPHER, "another cipher", "unsupported")
        require(matches(CREATED, predicate["created"]), "bad created")
        self.id = named(BUNDLE_ID, predicate["bundleId"])
        self.name = named(MODEL, predicate["name"])
        self.generation = integer(predicate["generation"], GENERATION_MAX)
        self.associated_data = f"{FORMAT}\n{self.id}".encode()
        self.files, subjects = array(predicate["files"]), array(manifest["subject"])
        require(self.files, "no files")
        require(len(self.files) <= FILES_MAX, f"{len(self.files)} files", "limit")
        require(len(subjects) == len(self.files), "not as many subjects as files")
        for file, subject in zip(self.files, subjects):
            check_file(file, subject)
        check_paths([file["path"] for file in self.files])
        total = sum(object_bytes(file["size"]) for file in self.files)
        require(total <= OBJECTS_BYTES_MAX, "the objects are too large together", "limit")

    def authenticate(self, dek):
        """§6: whoever made this manifest held the data key."""
        mac_key = hkdf(dek, b"", b"sealift/v1 manifest\n" + self.id.encode())
        head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(self.payload)} ".encode()
        signature = hmac.digest(mac_key, head + self.payload, "sha256")
        same = hmac.compare_digest(signature, self.signature)
        require(same, "the manifest is forged", "manifest-forged")

    def check_pins(self, demand, key_pins):
        """§9, all five; `key_pins` is None for a key that says nothing."""
        name, generation = self.name, self.generation
        digest = "sha256:" + hashlib.sha256(self.payload).hexdigest()
        require(demand.get("name", name) == name, f"it is {name}", "model-not-allowed")
        of_key = {name: {}} if key_pins is None else key_pins
        require(name in of_key, f"the key is not for {name}", "model-not-allowed")
        pinned = False
        for pin in (demand, of_key[name]):
            require(pin.get("min_generation", 0) <= generation, f"it is {generation}", "stale")
            require(digest in pin.get("digests", [digest]), f"it is {digest}", "digest")
            pinned = pinned or "min_generation" in pin or "digests" in pin
        require(pinned or demand.get("allow_unpinned"), "nobody pins the manifest", "unpinned")

    def open_file(self, dek, file, read):
        """§3, one file."""
        name, sealed, header = file["object"], read(file["object"]), base64_standard(file["header"])
        require(sealed is not None, f"there is no {name}", "missing")
        require(len(sealed) == object_bytes(file["size"]), f"the length of {name}", "length")
        require(sealed[:HEADER] == header, f"the header of {name}", "header")
        associated_data = self.associated_data + b"\n" + file["path"].encode()
        cipher = AESGCM(hkdf(dek, header[1:33], associated_data))
        plain, count = [], segments(file["size"])
        for index in range(count):
            nonce = header[33:] + index.to_bytes(4, "big") + bytes([index == count - 1])
            start, end = max(index * SEGMENT, HEADER), (index + 1) * SEGMENT
            plain.append(decrypt(cipher, nonce, sealed[start:end], None, "segment"))
        return b"".join(plain)


def refuse_foreign(document):
    """§4: what does not begin as a bundle does."""
    try:
        parsed = json.loads(document.decode(), parse_constant=no_json)
    except (ValueError, RecursionError):
        parsed = None
    version = parsed.get("format") if isinstance(parsed, dict) else None
    require(isinstance(version, str), "sealift.json names no format", "not-sealed")
    require(version == FORMAT, f"format {version}", "unsupported")
    raise Refused("malformed", "not canonical JSON")


def check_file(file, subject):
    members(file, "path mode size object header")
    check_path(file["path"])
    require(file["mode"] in ("0644", "0755"), "bad mode")
    integer(file["size"], FIRST + (SEGMENTS_MAX - 1) * LATER)
    require(file["object"] == file["path"] + ".sealed", "bad object")
    header = base64_standard(file["header"])
    require(len(header) == HEADER and header[0] == HEADER, "bad header")
    members(subject, "name digest")
    members(subject["digest"], "sha256")
    require(subject["name"] == file["object"], "a subject of another object")
    named(SHA256, subject["digest"]["sha256"])


def check_path(path):
    """§2, a path by itself."""
    require(isinstance(path, str), "a path is no string")
    components = path.split("/")
    fine = 0 < len(path.encode()) <= 1024 and "\\" not in path and not CONTROL.search(path)
    fine = fine and len(components) <= 32 and not {"", ".", ".."} & set(components)
    fine = fine and all(len(component.encode()) <= 248 for component in components)
    fine = fine and not any(component.lower().startswith(".sealift") for component in components)
    fine = fine and not path.lower().startswith("sealift.json/")
    require(fine, f"path {path!r}", "name")


def check_paths(paths):
    """§2, paths as a set."""
    ascending = all(a.encode() < b.encode() for a, b in zip(paths, paths[1:]))
    require(ascending, "paths are not strictly ascending", "name")
    lower = {path.lower() for path in paths}
    require(len(lower) == len(paths), "paths differ in case only", "name")
    ancestors = {p[:at].lower() for p in paths for at in range(len(p)) if p[at] == "/"}
    objects = {(path + ".sealed").lower() for path in paths}
    require(not ancestors & (lower | objects), "a path is also a directory", "name")


def read_recipients(recipients, aad):
    """§7, every recipient: `{kid: …}`."""
    require(array(recipients), "no recipients")
    require(len(recipients) <= RECIPIENTS_MAX, f"{len(recipients)} recipients", "limit")
    found = {}
    for recipient in recipients:
        wrapped = isinstance(recipient, dict) and "wrapped_key" in recipient
        members(recipient, "kid wrapped_key jwe" if wrapped else "kid jwe")
        kid, jwe = key_uri(recipient["kid"]), recipient["jwe"]
        require(wrapped == matches(UNWRAPPING, kid), "wrapped_key belongs to keys that unwrap")
        if wrapped:
            wrapped = len(base64_url(recipient["wrapped_key"]))
            require(wrapped > 0, "an empty wrapped key")
            require(wrapped <= WRAPPED_KEY_BYTES_MAX, "a wrapped key is too long", "limit")
        require(kid not in found, "two with the same kid")
        members(jwe, "protected encrypted_key aad iv ciphertext tag")
        decoded = {member: base64_url(jwe[member]) for member in jwe}
        require(decoded["aad"] == aad, "the recipient of another bundle")
        header = canonical(decoded["protected"])
        require(isinstance(header, dict), "a header is no object")
        require(not {"crit", "zip"} & header.keys(), "crit or zip", "unsupported")
        gcm = header.get("alg") == "A256GCMKW"
        members(header, "alg enc kid iv tag" if gcm else "alg enc kid")
        require(gcm or header["alg"] == "A256KW", "another alg")
        require(header["enc"] == "A256GCM" and header["kid"] == kid, "another enc or kid")
        lengths = {"iv": 12, "ciphertext": 32, "tag": 16, "encrypted_key": 32 if gcm else 40}
        require(all(len(decoded[m]) == n for m, n in lengths.items()), "a length in a recipient")
        if gcm:
            decoded["wrap"] = base64_url(header["iv"]), base64_url(header["tag"])
            require([len(part) for part in decoded["wrap"]] == [12, 16], "a length in a header")
        decoded["authenticated"] = f"{jwe['protected']}.{jwe['aad']}".encode()
        found[kid] = decoded
    return found


def unwrap(recipient, kek):
    """§7: the data key."""
    if "wrap" in recipient:
        iv, tag = recipient["wrap"]
        content_key = decrypt(AESGCM(kek), iv, recipient["encrypted_key"] + tag, None, "unwrap")
    else:
        try:
            content_key = aes_key_unwrap(kek, recipient["encrypted_key"])
        except InvalidUnwrap:
            raise Refused("unwrap", "the key does not unwrap the content key") from None
    sealed, authenticated = recipient["ciphertext"] + recipient["tag"], recipient["authenticated"]
    return decrypt(AESGCM(content_key), recipient["iv"], sealed, authenticated, "unwrap")


def read_key(released):
    """§8: the key, and its pins by model name or None."""
    try:
        require(len(released) <= KEY_BYTES_MAX, "too long")
        if len(released) == 32:
            return released, None
        if released.lstrip(b" \t\r\n").startswith(b"{"):
            return read_jwk(released)
        text = released.removesuffix(b"\n").decode()
        key = read_base64(text, b"+/") or read_base64(text, b"-_") or b""
        require(len(key) == 32, "not 32 bytes")
        return key, None
    except (Refused, ValueError, RecursionError) as error:
        raise Refused("key-unusable", f"the released key: {error}") from None


def read_jwk(text):
    jwk = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=no_json)
    require(count_values(jwk) <= KEY_VALUES_MAX, "too many values")
    require(jwk.get("kty") == "oct", "another kty")
    require(jwk.get("use", "enc") == "enc", "another use")
    require(jwk.get("alg", "A256KW") in ("A256KW", "A256GCMKW", "A256GCM"), "another alg")
    key = base64_url(jwk.get("k"))
    require(len(key) == 32, "not 32 bytes")
    if "sealift_purposes" in jwk:
        purposes = jwk["sealift_purposes"]
        require(array(purposes), "no purposes")
        require(all(purpose in PURPOSES for purpose in purposes), "an unknown purpose")
        require(len(set(purposes)) == len(purposes), "a purpose twice")
        require("open" in purposes, "it is not for opening")
    if "sealift" not in jwk:
        return key, None
    require(isinstance(jwk["sealift"], dict), "sealift is no object")
    for name, pin in jwk["sealift"].items():
        named(MODEL, name)
        require(isinstance(pin, dict), "a pin is no object")
        require(pin.keys() <= {"min_generation", "digests"}, "an unknown pin")
        integer(pin.get("min_generation", 0), GENERATION_MAX)
        if "digests" in pin:
            require(array(pin["digests"]), "no digests")
            require(all(matches(DIGEST, digest) for digest in pin["digests"]), "bad digest")
    return key, jwk["sealift"]


def count_values(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count_values, inside))


def canonical(document):
    """§4: JSON that has exactly one spelling."""
    hooks = {"object_pairs_hook": unique, "parse_float": no_json, "parse_constant": no_json}
    try:
        parsed = json.loads(document.decode(), **hooks)
        spelled = json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"no canonical JSON: {error}") from None
    require(spelled == document, "not canonical JSON")
    return parsed


def unique(pairs):
    require(len(dict(pairs)) == len(pairs), "a member stands twice")
    return dict(pairs)


def no_json(text):
    raise ValueError(f"{text} has no place here")


def members(value, names):
    require(isinstance(value, dict) and list(value) == names.split(), f"not the members {names}")


def array(value):
    require(isinstance(value, list), f"{value!r} is no array")
    return value


def matches(pattern, value):
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def named(pattern, value):
    require(isinstance(value, str), f"{value!r} is no string")
    require(matches(pattern, value), f"{value!r} is not {pattern.pattern}", "name")
    return value


def key_uri(value):
    """§2, the name of a key."""
    named(KEY_URI, value)
    require(len(value) <= KEY_URI_BYTES_MAX, "a key's name is too long", "name")
    if value.startswith("pkcs11:"):
        for attribute in value.removeprefix("pkcs11:").split(";"):
            name, escaped = attribute.split("=")
            decoded = re.sub("%(..)", lambda m: chr(int(m[1], 16)), escaped).encode("latin-1")
            if name != "id":
                check_label(escaped, decoded)
    return value


def check_label(escaped, decoded):
    try:
        text = decoded.decode()
    except ValueError:
        raise Refused("name", "a label is not UTF-8") from None
    require(not CONTROL.search(text), "a label holds a control character", "name")
    require(urllib.parse.quote(decoded, safe="-._~") == escaped, "a needless escape", "name")


def integer(value, most):
    require(type(value) is int and 0 <= value < 2**64, f"{value!r} is no count")
    require(value <= most, f"{value} is too large", "limit")
    return value


def read_base64(text, alphabet, padding=(True, False)):
    """The bytes of canonical base64, or None; `padding` says which spellings are allowed."""
    try:
        bare = text.rstrip("=")
        decoded = base64.b64decode(bare + "=" * (-len(bare) % 4), alphabet, validate=True)
    except ValueError:
        return None
    spelled = base64.b64encode(decoded, alphabet).decode()
    allowed = [spelled if padded else spelled.rstrip("=") for padded in padding]
    return decoded if text in allowed else None


def base64_standard(text):
    decoded = read_base64(text, b"+/", [True]) if isinstance(text, str) else None
    require(decoded is not None, "not base64")
    return decoded


def base64_url(text):
    decoded = read_base64(text, b"-_", [False]) if isinstance(text, str) else None
    require(decoded is not None, "not base64url")
    return decoded


def segments(size):
    return 1 if size <= FIRST else 1 + -(-(size - FIRST) // LATER)


def object_bytes(size):
    return HEADER + size + TAG * segments(size)


def hkdf(key, salt, info):
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def decrypt(cipher, nonce, sealed, associated_data, reason):
    try:
        return cipher.decrypt(nonce, sealed, associated_data)
    except InvalidTag:
        raise Refused(reason, "a tag does not hold") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=pathlib.Path, help="directory of the bundle")
    parser.add_argument("--key", type=pathlib.Path, required=True, help="what is released or unwrapped")
    parser.add_argument("--resource", required=True, help="the name of that key")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="directory for the files")
    parser.add_argument("--name", default=argparse.SUPPRESS)
    parser.add_argument("--min-generation", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--digest", dest="digests", action="append", default=argparse.SUPPRESS)
    parser.add_argument("--allow-unpinned", action="store_true")
    arguments = parser.parse_args()

    def read(name):
        path = arguments.bundle / name
        return path.read_bytes() if path.is_file() else None

    try:
        key = arguments.key.read_bytes()
        files = open_bundle(read, key, arguments.resource, vars(arguments))
    except Refused as refused:
        sys.exit(f"refused, {refused}")
    for path, (data, mode) in files.items():
        print(mode, len(data), hashlib.sha256(data).hexdigest(), path)
        if arguments.output:
            target = arguments.output / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(int(mode, 8))


if __name__ == "__main__":
    main()

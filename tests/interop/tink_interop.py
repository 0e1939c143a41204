"""Sealed segments against Google's Tink, in both directions, at every size where something changes."""

import os
import pathlib
import tempfile

import tink

from sealed import HEADER, SEGMENT, TAG, tink_open, tink_seal
from suite import Refused, check, finish, refuses, run

FIRST = SEGMENT - HEADER - TAG
LATER = SEGMENT - TAG
SIZES = [0, 1, FIRST - 1, FIRST, FIRST + 1]
SIZES += [FIRST + LATER - 1, FIRST + LATER, FIRST + LATER + 1, FIRST + 4 * LATER + 12345]
ASSOCIATED_DATA = [b"", b"sealift/v1\n00112233445566778899aabbccddeeff\nweights/model.safetensors"]

KEY = os.urandom(32)


class Ours:
    """The program `tinkfile` in Tink's place."""

    def __init__(self, directory):
        self.source = pathlib.Path(directory) / "from"
        self.target = pathlib.Path(directory) / "to"

    def run(self, verb, associated_data, data):
        self.source.write_bytes(data)
        run("tinkfile", verb, KEY.hex(), associated_data.hex(), self.source, self.target)
        return self.target.read_bytes()

    def seal(self, associated_data, plaintext):
        return self.run("seal", associated_data, plaintext)

    def open(self, associated_data, sealed):
        return self.run("open", associated_data, sealed)


class Tink:
    def seal(self, associated_data, plaintext):
        return tink_seal(KEY, associated_data, plaintext)

    def open(self, associated_data, sealed):
        return tink_open(KEY, associated_data, sealed)


def damaged(sealed):
    """Names and bytes of what must not open."""
    yield "cut by a byte", sealed[:-1]
    yield "cut by a tag", sealed[:-TAG]
    yield "with a byte appended", sealed + b"\0"
    yield "with a segment appended", sealed + sealed[-SEGMENT:]
    yield "with a bit of the salt flipped", flip(sealed, 1)
    yield "with a bit of the nonce prefix flipped", flip(sealed, 33)
    yield "with a bit of the last byte flipped", flip(sealed, len(sealed) - 1)
    for end in range(SEGMENT, len(sealed), SEGMENT):
        yield f"cut at segment boundary {end}", sealed[:end]
    if len(sealed) > 3 * SEGMENT:
        one, two = sealed[SEGMENT : 2 * SEGMENT], sealed[2 * SEGMENT : 3 * SEGMENT]
        yield "with two segments swapped", sealed[:SEGMENT] + two + one + sealed[3 * SEGMENT :]


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def main():
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = Ours(directory), Tink()
        refusals = (Refused, tink.TinkError, OSError)
        for size in SIZES:
            plaintext = os.urandom(size)
            for associated_data in ASSOCIATED_DATA:
                case = f"{size} bytes, {len(associated_data)} of associated data"
                with check(f"Tink opens ours: {case}"):
                    sealed = ours.seal(associated_data, plaintext)
                    assert theirs.open(associated_data, sealed) == plaintext
                with check(f"we open Tink's: {case}"):
                    sealed = theirs.seal(associated_data, plaintext)
                    assert ours.open(associated_data, sealed) == plaintext
                for name, opener in ("we refuse", ours), ("Tink refuses", theirs):
                    with check(f"{name} wrong associated data: {case}"):
                        refuses(lambda: opener.open(associated_data + b"x", sealed), refusals)
        sealed = theirs.seal(b"", os.urandom(FIRST + 3 * LATER + 1))
        for what, bytes_ in damaged(sealed):
            for name, opener in ("we refuse", ours), ("Tink refuses", theirs):
                with check(f"{name} a file {what}"):
                    refuses(lambda: opener.open(b"", bytes_), refusals)
    finish()


main()

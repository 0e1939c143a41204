"""Turns a bundle's data key into what other Tink tools need: `tink_keyset.py KEY_FILE SEALIFT_JSON`.

The first line is what a file's associated data begins with, its newlines written as \\n; the path follows
it. The rest is a cleartext Tink keyset.
"""

import json
import sys

import sealed


def main():
    key_file, manifest = sys.argv[1:]
    with open(manifest) as file:
        bundle = json.load(file)
    bundle_id = sealed.statement(bundle)["predicate"]["bundleId"]
    print(f"sealift/v1\\n{bundle_id}\\n")
    print(sealed.keyset(sealed.unwrap(key_file, bundle)))


main()

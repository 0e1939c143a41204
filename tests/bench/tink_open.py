"""Opens sealed files as any Tink user would: `tink_open.py KEYSET ASSOCIATED_DATA_PREFIX FROM TO`.

Every `<path>.sealed` below FROM becomes `<path>` below TO; its associated data is the prefix and the path.
"""

import pathlib
import shutil
import sys

import tink
from tink import secret_key_access, streaming_aead


def main():
    keyset, prefix, source, destination = sys.argv[1:]
    streaming_aead.register()
    handle = tink.json_proto_keyset_format.parse(
        pathlib.Path(keyset).read_text(), secret_key_access.TOKEN
    )
    primitive = handle.primitive(streaming_aead.StreamingAead)
    for sealed in sorted(pathlib.Path(source).rglob("*.sealed")):
        path = sealed.relative_to(source).as_posix().removesuffix(".sealed")
        target = pathlib.Path(destination) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(sealed, "rb") as ciphertext,
            primitive.new_decrypting_stream(ciphertext, (prefix + path).encode()) as plaintext,
            open(target, "wb") as output,
        ):
            shutil.copyfileobj(plaintext, output, 1 << 20)


main()

"""What upstream's storage initializer does, from its own package: `upstream_init.py SRC DEST [SRC DEST…]`.

The steps and their order are those of the image's entry point, which the package does not contain.
"""

import os
import sys
import types

from kserve_storage import Storage


def without_kerberos():
    """`hdfs://` imports a binding of Kerberos's C library, which nothing here logs in with."""
    for name in ("krbcontext", "krbcontext.context"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["krbcontext.context"].krbContext = None


def main():
    sources, destinations = sys.argv[1::2], sys.argv[2::2]
    without_kerberos()
    Storage.download_files(sources, destinations)
    if os.environ.get("CONFIDENTIAL_ENABLED", "").lower() == "true":
        from kserve_storage.confidential import CDHSecretResolver, JWEDecryptor

        resource = os.environ["CONFIDENTIAL_RESOURCE_ID"]
        decryptor = JWEDecryptor(CDHSecretResolver(), resource_id=resource)
        for destination in destinations:
            decryptor.decrypt_directory(destination, resource_id=resource)


main()

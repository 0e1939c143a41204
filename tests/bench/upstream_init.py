"""What upstream's storage initializer does, from its own package: `upstream_init.py SRC DEST`.

The steps and their order are those of the image's entry point, which the package does not contain.
"""

import os
import sys

from kserve_storage import Storage
from kserve_storage.confidential import CDHSecretResolver, JWEDecryptor


def main():
    source, destination = sys.argv[1:]
    Storage.download_files([source], [destination])
    if os.environ.get("CONFIDENTIAL_ENABLED", "").lower() == "true":
        resource = os.environ["CONFIDENTIAL_RESOURCE_ID"]
        decryptor = JWEDecryptor(CDHSecretResolver(), resource_id=resource)
        decryptor.decrypt_directory(destination, resource_id=resource)


main()

"""Puts a directory's files where upstream's initializer and ours are to fetch them from.

    upstream_put.py gs URL BUCKET DIR              below `model/`
    upstream_put.py azure CONNECTION CONTAINER DIR below `model/`
    upstream_put.py image HOST REPOSITORY DIR      one layer for each `*.tar.gz` in it, tag `v1`
"""

import gzip
import hashlib
import json
import pathlib
import sys


def files(directory):
    for path in sorted(pathlib.Path(directory).rglob("*")):
        if path.is_file():
            yield path.relative_to(directory).as_posix(), path.read_bytes()


def gs(url, bucket, directory):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    options = {"api_endpoint": url}
    client = storage.Client("test", AnonymousCredentials(), client_options=options)
    for name, data in files(directory):
        client.bucket(bucket).blob(f"model/{name}").upload_from_string(data)


def azure(connection, container, directory):
    from azure.storage.blob import BlobServiceClient

    client = BlobServiceClient.from_connection_string(connection).create_container(container)
    for name, data in files(directory):
        client.upload_blob(f"model/{name}", data)


def image(host, repository, directory):
    import requests

    base = f"http://{host}/v2/{repository}"

    def put(data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        upload = requests.post(f"{base}/blobs/uploads/").headers["Location"]
        joint = "&" if "?" in upload else "?"
        requests.put(f"{upload}{joint}digest={digest}", data=data).raise_for_status()
        return {"digest": digest, "size": len(data)}

    kind = "application/vnd.oci.image"
    layers, unpacked = [], []
    for _, data in files(directory):
        layers.append({"mediaType": f"{kind}.layer.v1.tar+gzip", **put(data)})
        unpacked.append("sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest())
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": unpacked}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", **put(json.dumps(config).encode())},
        "layers": layers,
    }
    headers = {"Content-Type": manifest["mediaType"]}
    requests.put(f"{base}/manifests/v1", json.dumps(manifest), headers=headers).raise_for_status()


{"gs": gs, "azure": azure, "image": image}[sys.argv[1]](*sys.argv[2:])

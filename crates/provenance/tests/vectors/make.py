"""Signatures by Python's model-signing 1.1.1 over the files that vectors.rs knows, for good.

Needs the packages of tests/requirements.txt and OpenSSL. Every run makes new keys; the tests hold for
any of them.
"""

import pathlib
import subprocess
import tempfile

from model_signing import hashing, signing

HERE = pathlib.Path(__file__).parent
FILES = {
    "a/z": b"x",
    "a-b/z": b"y",
    "config.json": b"hello",
    "empty": b"",
    "w.bin": bytes(i * i % 251 for i in range(2500)),
}


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, stderr=subprocess.DEVNULL)


with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    model = work / "model"
    for path, content in FILES.items():
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_bytes(content)
    (model / ".gitattributes").write_text("left out")

    def config(method, algorithm):
        config = hashing.Config()
        if method == "files":
            config.use_file_serialization(hashing_algorithm=algorithm)
        else:
            config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=1000)
        return config.set_ignored_paths(paths=["model.sig"])

    def sign(configured, method, algorithm, to):
        configured.set_hashing_config(config(method, algorithm)).sign(model, HERE / to)

    def key(curve):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}",
                "-pkeyopt", "ec_param_enc:named_curve", "-out", str(work / curve))
        return work / curve

    for curve in ["P-256", "P-384", "P-521"]:
        openssl("pkey", "-in", str(key(curve)), "-pubout", "-out", str(HERE / f"{curve}.pub"))
        by = signing.Config().use_elliptic_key_signer(private_key=work / curve)
        sign(by, "files", "sha256", f"{curve}.sig")
    by = signing.Config().use_elliptic_key_signer(private_key=work / "P-256")
    for method, algorithm in [("files", "blake2"), ("files", "blake3"), ("shards", "sha256")]:
        sign(by, method, algorithm, f"{method}-{algorithm}.sig")

    openssl("req", "-x509", "-new", "-key", str(work / "P-384"), "-days", "36500", "-subj", "/CN=root",
            "-addext", "keyUsage=keyCertSign", "-out", str(HERE / "root.pem"))
    (work / "leaf.ext").write_text("keyUsage=digitalSignature\nsubjectAltName=email:release@example.com\n")
    openssl("req", "-new", "-key", str(work / "P-256"), "-subj", "/O=Example/CN=release",
            "-out", str(work / "leaf.csr"))
    openssl("x509", "-req", "-in", str(work / "leaf.csr"), "-CA", str(HERE / "root.pem"),
            "-CAkey", str(work / "P-384"), "-days", "36500", "-extfile", str(work / "leaf.ext"),
            "-out", str(work / "leaf.pem"))
    by = signing.Config().use_certificate_signer(
        private_key=work / "P-256",
        signing_certificate=work / "leaf.pem",
        certificate_chain=[HERE / "root.pem"],
    )
    sign(by, "files", "sha256", "certificate.sig")

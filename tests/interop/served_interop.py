"""A model is served: sealed, opened by the initializer as KServe calls it, and asked in MLServer over
the Open Inference Protocol. Then what arrives is broken, and the server is never started.

    python served_interop.py                  # the initializer of SEALIFT_PROGRAMS
    python served_interop.py DIRECTORY IMAGE  # an image in podman's storage below DIRECTORY

MLServer is in the virtual environment of SEALIFT_MLSERVER (requirements-mlserver.txt), the bucket in
the S3 server of SEALIFT_S3S_FS.
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from kubelet import Podman, memory_volume, pod
from suite import PROGRAMS, check, finish, run, skip

SUITE = "a sealed model is served by MLServer"
HERE = pathlib.Path(__file__).parent
# All of it vanishes with the first process of this namespace, however the suite ends.
NAMESPACE = "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"
KEY, NAME, BUCKET = "kbs:///team/iris/v1", "iris", "models"
SOURCE, OBJECT = f"s3://{BUCKET}/{NAME}/1", "model.joblib.sealed"
# Ours, of Kubernetes' 4096.
MESSAGE_BYTES = 1024
START_SECONDS = 120
ALLOW = """package policy
default allow := false
allow if data["resource-path"] == ["team", "iris", "v1"]
"""
DENY = "package policy\ndefault allow := false\n"


class World:
    """A bucket, a broker, and a pod of an initializer and MLServer."""

    def __init__(self, scratch, podman, image, mlserver):
        self.scratch, self.podman = scratch, podman
        self.image, self.mlserver = image, mlserver
        self.model, self.bucket = scratch / "model", scratch / "s3" / BUCKET
        self.prefix = self.bucket / NAME / "1"
        self.broker_keys = scratch / "broker-keys"
        self.servers = []
        self.model.mkdir()
        self.bucket.mkdir(parents=True)

    def start_store(self):
        port = free_port()
        self.store = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "sealift-test", "AWS_SECRET_ACCESS_KEY": "sealift-test-secret",
        }
        keys = "--access-key", "sealift-test", "--secret-key", "sealift-test-secret"
        self.serve("s3", os.environ["SEALIFT_S3S_FS"], "--port", port, *keys, self.bucket.parent)
        self.wait(lambda: connects(port))

    def start_broker(self):
        run("sealift-broker", "init", "--data-dir", self.scratch / "broker")
        self.policy(ALLOW)
        ready = self.scratch / "broker-ready"
        self.serve(
            "broker", PROGRAMS / "sealift-broker", "serve", "--insecure-dev",
            "--listen", "127.0.0.1:0", "--data-dir", self.scratch / "broker",
            "--master-key-file", self.broker_keys / "master.key",
            "--admin-public-key", self.broker_keys / "admin.pub",
            "--policy", self.scratch / "policy.rego", "--ready-file", ready,
        )
        self.wait(ready.exists)
        self.broker = "http://" + ready.read_text().strip()

    def policy(self, text):
        """Replaced, not rewritten: the broker may read it at any moment."""
        (self.scratch / "policy.new").write_text(text)
        (self.scratch / "policy.new").rename(self.scratch / "policy.rego")

    def release(self, key):
        """From now on the broker releases `key`, a new one if it is not there yet."""
        if not key.exists():
            run("sealift", "keygen", "--resource-id", KEY, "--model", NAME, "--key-file", key)
        admin = "--kbs-url", self.broker, "--admin-key", self.broker_keys / "admin.key"
        put = "key", "put", "--resource-id", KEY, "--key-file", key, "--overwrite", *admin
        run("sealift", *put)

    def seal(self, key):
        subject = "--name", NAME, "--resource-id", KEY, "--key-file", key
        run("sealift", "seal", self.model, SOURCE, *subject, env={**os.environ, **self.store})

    @contextlib.contextmanager
    def pod(self, volume):
        """As KServe's webhook writes it: what the service account's Secret and the
        ClusterStorageContainer say, `confidential`, the URI and the path."""
        self.port = free_port()
        message = self.scratch / "termination-log"
        variables = {
            **self.store,
            "SEALIFT_KEY_SOURCE": "kbs", "SEALIFT_KBS_URL": self.broker,
            "SEALIFT_INSECURE_DEV": "true",
            "CONFIDENTIAL_ENABLED": "true", "CONFIDENTIAL_RESOURCE_ID": KEY,
        }
        volumes = f"{volume}:/mnt/models", f"{message}:/dev/termination-log"
        source = f"{SOURCE}#name={NAME}"
        memory = "--memory=192m", "--memory-swap=192m"
        initializer = self.podman.command(
            self.image, [source, "/mnt/models"], variables, volumes, *memory)
        # ClusterServingRuntime kserve-mlserver, and what KServe adds for its model.
        variables = {
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_sklearn.SKLearnModel",
            "MLSERVER_HTTP_PORT": str(self.port), "MLSERVER_GRPC_PORT": str(free_port()),
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_MODEL_NAME": NAME, "MLSERVER_MODEL_URI": "/mnt/models",
        }
        # It writes to its working directory.
        place = "--tmpfs", "/tmp", "--workdir", "/tmp"
        server = self.podman.command(
            self.podman.environment_program(self.mlserver), ["start", "/mnt/models"],
            variables, [f"{volume}:/mnt/models:ro"], *place)
        with pod(initializer, server, message, self.scratch / "mlserver.log") as started:
            yield started

    def answers(self, server, flowers):
        """What the server says of `flowers`, once it is ready."""
        def ready():
            if server.poll() is not None:
                raise AssertionError((self.scratch / "mlserver.log").read_text())
            # The server is ready before its models are, while it knows of none.
            paths = "/v2/health/ready", f"/v2/models/{NAME}/ready"
            return connects(self.port) and all(self.ask("GET", path)[0] == 200 for path in paths)
        self.wait(ready)
        numbers = [number for flower in flowers for number in flower]
        shape = [len(flowers), len(flowers[0])]
        asked = {"name": "flowers", "shape": shape, "datatype": "FP64", "data": numbers}
        outputs = [{"name": "predict"}, {"name": "predict_proba"}]
        body = json.dumps({"inputs": [asked], "outputs": outputs})
        status, answer = self.ask("POST", f"/v2/models/{NAME}/infer", body)
        assert status == 200, (status, answer)
        return {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()

    def serve(self, name, *command):
        log = open(self.scratch / f"{name}.log", "wb")
        self.servers.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log))

    def wait(self, ready):
        end = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > end:
                raise AssertionError("it does not start")
            time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connects(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main(scratch, podman, image, mlserver):
    world = World(scratch, podman, image, mlserver)
    python, iris = mlserver.with_name("python"), HERE / "iris.py"
    key, other = scratch / "key.jwk", scratch / "other.jwk"
    volume = scratch / "volume"
    try:
        world.start_store()
        world.start_broker()
        subprocess.run([python, iris, "train", world.model], check=True)
        told = subprocess.run([python, iris, "ask", world.model], check=True, stdout=subprocess.PIPE)
        original = json.loads(told.stdout)
        world.release(key)
        world.seal(key)
        with check("MLServer answers with the opened model as the original does"):
            with memory_volume(volume):
                served(world, volume, original)
        sealed = scratch / "sealed"
        shutil.copytree(world.prefix, sealed)

        def put_right():
            replace(world.prefix, sealed)
            world.policy(ALLOW)
            world.release(key)

        for what, expected, spoil in [
            ("a byte of an object changes", 30, lambda: flip(world.prefix / OBJECT)),
            ("the plain model is in its place", 31, lambda: replace(world.prefix, world.model)),
            ("the broker has another key of that name", 30, lambda: world.release(other)),
            ("the broker's policy says no", 21, lambda: world.policy(DENY)),
        ]:
            with check(f"MLServer is not started when {what}"), memory_volume(volume):
                put_right()
                spoil()
                refused(world, volume, expected)
        with check("the same pod starts once what was wrong is put right"), memory_volume(volume):
            put_right()
            flip(world.prefix / OBJECT)
            refused(world, volume, 30)
            # Kubelet tries again, in the same volume.
            put_right()
            served(world, volume, original)
    finally:
        for server in world.servers:
            server.kill()


def served(world, volume, original):
    """The server answers with exactly what the model did before it was sealed."""
    with world.pod(volume) as (code, message, server):
        assert (code, message) == (0, ""), (code, message)
        assert world.answers(server, original["flowers"]) == original["answers"]


def refused(world, volume, expected):
    """No server, nothing in the volume, and a message that says why and nothing secret."""
    with world.pod(volume) as (code, message, server):
        print(f"  {code}: {message.strip()}", flush=True)
        assert (code, server) == (expected, None), (code, message)
        assert not connects(world.port)
        assert list(volume.iterdir()) == []
        assert message.startswith(f"E{expected} ") and message.count("\n") <= 1, message
        assert f"sealift explain E{expected}" in message, message
        assert len(message.encode()) <= MESSAGE_BYTES, len(message)


def flip(path):
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)


def replace(directory, by):
    shutil.rmtree(directory)
    shutil.copytree(by, directory)


def missing():
    """What is not here and has to be, or `None`."""
    if not os.environ.get("SEALIFT_MLSERVER"):
        return "MLServer could not be installed"
    if subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        return "it needs root, to mount a volume in memory"
    return None


if __name__ == "__main__":
    if why := missing():
        skip(SUITE, why)
        finish()
    if os.getpid() != 1:
        os.execvp(NAMESPACE[0], [*NAMESPACE, sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        if len(sys.argv) == 3:
            podman, image = Podman(sys.argv[1]), [sys.argv[2]]
        else:
            podman = Podman(scratch)
            image = podman.program(PROGRAMS / "sealift", "/storage-initializer")
        main(scratch, podman, image, pathlib.Path(os.environ["SEALIFT_MLSERVER"]))
    finish()

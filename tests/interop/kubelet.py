"""What kubelet does with a pod of one init container and one server, in containers of podman's.

The profile is `restricted`, as in `cargo xtask demo images`: a user id that nobody knows, a
read-only root, no capabilities, podman's default seccomp profile.
"""

import contextlib
import os
import pathlib
import subprocess
import sys

# Nobody, in the group that OpenShift gives to such users.
USER = "1000660000:0"
# What Kubernetes keeps of a termination message, and of a log in its place.
MESSAGE_BYTES, LOG_BYTES = 4096, 2048


class Podman:
    """A container engine with its storage in `directory`."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def command(self, image, arguments, variables, volumes, *options):
        """Runs a container in the foreground. `image` is its name, or what stands for one."""
        command = [
            "podman", "--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
            "--root", self.directory / "podman", "--runroot", self.directory / "podman-run",
            "run", "--rm", "--read-only", "--read-only-tmpfs=false", "--user", USER,
            "--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "host",
            # Podman would raise them, which takes a capability that CI's root does not have.
            "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", *options,
        ]
        command += [word for item in variables.items() for word in ("--env", "=".join(item))]
        command += volume_options(volumes)
        return [str(word) for word in [*command, *image, *arguments]]

    def program(self, path, at, *volumes):
        """Instead of an image: a program of this machine, with the libraries that are here."""
        root = self.directory / f"root-of-{path.name}"
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        (root / "tmp").chmod(0o1777)
        shared = filter(os.path.isdir, ("/usr", "/lib", "/lib64"))
        shared = [f"{os.path.realpath(directory)}:{directory}:ro" for directory in shared]
        options = volume_options([*shared, f"{path}:{at}:ro", *volumes])
        return [*options, "--entrypoint", at, "--rootfs", root]

    def environment_program(self, path):
        """The same of a program in a virtual environment."""
        needed = {path.parents[1], path.resolve().parents[1], pathlib.Path(sys.base_prefix)}
        return self.program(path, path, *(f"{directory}:{directory}:ro" for directory in needed))


def volume_options(volumes):
    return [word for volume in volumes for word in ("--volume", volume)]


@contextlib.contextmanager
def memory_volume(directory):
    """An `emptyDir` with `medium: Memory`."""
    directory.mkdir()
    options = "size=64m,mode=0777,nosuid,nodev"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "volume", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


@contextlib.contextmanager
def pod(initializer, server, message_file, log):
    """The init container's exit code and message, and the server's process: `None` unless the code
    is 0, for containers start only when every init container has succeeded."""
    message_file.write_text("")
    message_file.chmod(0o666)
    done = subprocess.run(initializer, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    message = message_file.read_bytes()[:MESSAGE_BYTES]
    if done.returncode != 0 and not message:
        # terminationMessagePolicy: FallbackToLogsOnError
        message = done.stdout[-LOG_BYTES:]
    if done.returncode != 0:
        yield done.returncode, message.decode(), None
        return
    with open(log, "wb") as output:
        process = subprocess.Popen(server, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield 0, message.decode(), process
    finally:
        process.terminate()
        process.wait()

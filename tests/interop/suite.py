"""A suite of checks that ends with `N passed, N failed, N skipped`, as `cargo xtask test` reads it."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

# Where our programs are.
PROGRAMS = pathlib.Path(os.environ["SEALIFT_PROGRAMS"])

_passed, _failed, _skipped = [], [], []


@contextlib.contextmanager
def check(name):
    """One check: what is inside either runs through or fails."""
    try:
        yield
    except Exception:
        _failed.append(name)
        print(f"FAILED {name}", flush=True)
        traceback.print_exc(file=sys.stdout)
    else:
        _passed.append(name)


def skip(name, why):
    """A check that cannot be made here, said aloud as the harness of `cargo test` says it."""
    _skipped.append(name)
    print(f"test {name} ... ignored, {why}", flush=True)


def run(*command, **settings):
    """Runs one of our programs; its standard output, or an error with what it said."""
    program, *arguments = map(str, command)
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, **settings)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise Refused(f"{program} ended with {done.returncode}: {said}")
    return done.stdout


class Refused(Exception):
    """A program of ours ended with an error."""


def refuses(action, error):
    """Fails unless `action()` raises `error`."""
    try:
        action()
    except error:
        return
    raise AssertionError("accepted what must be refused")


@contextlib.contextmanager
def memory_directory():
    """A directory on tmpfs, as `sealift open` asks for."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="sealift-interop-", dir="/dev/shm"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def finish():
    print(f"{len(_passed)} passed, {len(_failed)} failed, {len(_skipped)} skipped", flush=True)
    sys.exit(1 if _failed else 0)

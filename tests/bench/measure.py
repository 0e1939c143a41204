"""Runs a command and says what it cost.

    measure.py RESULT [--watch DIR] -- COMMAND…

Writes `exit wall user sys peak_rss peak_memory` to the file RESULT: seconds and bytes. The times and
the largest process's resident set are those that the kernel counted for the command and its
descendants. `peak_memory` is 0 without --watch; with it, the largest sum seen of the anonymous memory
of all processes and of the bytes that the file system of DIR holds beyond those at the start.
Watching costs time of its own, so it is for memory, not for speed.
"""

import os
import sys
import threading
import time


def anonymous_bytes(root):
    """Of the process `root` and all its descendants."""
    children, anonymous = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/status") as status:
                fields = dict(line.split(":", 1) for line in status if ":" in line)
        except OSError:
            continue
        pid = int(entry)
        children.setdefault(int(fields["PPid"]), []).append(pid)
        anonymous[pid] = int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        total += anonymous.get(pid, 0)
        waiting += children.get(pid, [])
    return total


def used_bytes(directory):
    info = os.statvfs(directory)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


def watch(pid, directory, at_start, stop, peak):
    while not stop.wait(0.01):
        peak[0] = max(peak[0], anonymous_bytes(pid) + used_bytes(directory) - at_start)


def main():
    split = sys.argv.index("--")
    result, options, command = sys.argv[1], sys.argv[2:split], sys.argv[split + 1 :]
    directory = options[1] if options else None
    at_start = used_bytes(directory) if directory else 0
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    stop, peak = threading.Event(), [0]
    if directory:
        watcher = threading.Thread(target=watch, args=(pid, directory, at_start, stop, peak))
        watcher.start()
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    if directory:
        stop.set()
        watcher.join()
    code = os.waitstatus_to_exitcode(status)
    with open(result, "w") as file:
        print(code, wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024, peak[0], file=file)
    sys.exit(0 if code == 0 else 1)


main()

"""Worker processes, and what becomes of them when the process that started them is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import os, sys, time
from fosp_trainer.pool import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(4)}, flush=True)
        if "busy" in sys.argv:
            pool.submit(time.sleep, 600.0)
        time.sleep(600.0)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_outlive_a_kill(tmp_path: Path, *arguments: str) -> bool:
    """Whether a worker is still there half a minute after the process that started it was killed."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    parent = subprocess.Popen([sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids and all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30.0
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return any(map(alive, pids))


def test_waiting_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    assert not workers_outlive_a_kill(tmp_path)


def test_busy_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    assert not workers_outlive_a_kill(tmp_path, "busy")

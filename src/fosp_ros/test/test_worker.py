import threading

from fosp_ros.worker import NewestWorker


def test_only_the_newest_waiting_item_is_worked_on():
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        started.set()
        go.wait(10)
        if item == 5:
            done.set()

    worker = NewestWorker(work, on_error=lambda error: None)
    worker.submit(1)
    assert started.wait(10)
    for item in range(2, 6):
        worker.submit(item)
    go.set()
    assert done.wait(10)
    assert seen == [1, 5]
    assert worker.replaced == 3
    assert worker.close()


def test_an_error_is_reported_and_the_worker_goes_on():
    errors: list[Exception] = []
    done = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            raise RuntimeError("broken")
        done.set()

    reported = threading.Event()

    def on_error(error: Exception) -> None:
        errors.append(error)
        reported.set()

    worker = NewestWorker(work, on_error)
    worker.submit(0)
    assert reported.wait(10)
    worker.submit(1)
    assert done.wait(10)
    assert str(errors[0]) == "broken"
    assert worker.close()


def test_jobs_run_in_the_thread_of_the_work():
    threads: list[threading.Thread] = []
    done = threading.Event()
    worker = NewestWorker(lambda item: threads.append(threading.current_thread()), on_error=lambda e: None)
    worker.submit(1)
    worker.call(lambda: (threads.append(threading.current_thread()), done.set()))
    assert done.wait(10)
    worker.submit(2)
    worker.close()
    assert len({thread.ident for thread in threads}) == 1

"""Progress on the terminal, figures to TensorBoard, and a polite answer to Ctrl-C."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)


class Interrupted(KeyboardInterrupt):
    """Asked to stop; what is done so far is saved."""


class Stopper:
    """Turns SIGINT and SIGTERM into a flag, so that a run ends between two updates. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        console.print("stopping after this update; the run can be continued with --resume")

    def __enter__(self) -> Stopper:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: whoever runs us handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Log:
    """Scalars and images to TensorBoard and to ``metrics.jsonl``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=20)
        self.stream = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Write ``prefix/name`` at ``step``."""
        for name, value in values.items():
            self.writer.add_scalar(f"{prefix}/{name}", value, step)
        record = {
            "stage": prefix,
            "step": step,
            "time": round(time.time(), 1),
            **{k: float(v) for k, v in values.items()},
        }
        self.stream.write(json.dumps(record) + "\n")
        self.stream.flush()

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write an RGB image (H, W, 3)."""
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()
        self.stream.close()


class Bar:
    """One stage's progress: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, total: int, done: int, quiet: bool) -> None:
        self.name, self.total, self.done, self.quiet = name, total, done, quiet
        self.started, self.first, self.last_line = time.monotonic(), done, 0.0
        self.live: Progress | None = None
        self.task: TaskID | None = None
        if console.is_terminal and not quiet:
            self.live = Progress(
                TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
            )  # fmt: skip
            self.task = self.live.add_task(name, total=total, completed=done, note="")
            self.live.start()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """``count`` more are done."""
        self.done += count
        if self.live is not None and self.task is not None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            self.live.update(self.task, completed=self.done, **fields)
        elif not self.quiet and note is not None and time.monotonic() - self.last_line > 10.0:
            self.last_line = time.monotonic()
            pace = (self.last_line - self.started) / max(self.done - self.first, 1)
            left = pace * (self.total - self.done)
            console.print(
                f"{self.name} {self.done}/{self.total}  {1e3 * pace:.0f} ms each  eta {left / 60:.1f} min  {note}",
                soft_wrap=True,
            )

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.live is not None:
            self.live.stop()


@contextmanager
def bar(name: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Bar]:
    """A ``Bar`` that is closed in the end."""
    shown = Bar(name, total, done, quiet)
    try:
        yield shown
    finally:
        shown.close()

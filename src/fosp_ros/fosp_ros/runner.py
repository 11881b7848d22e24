"""The main function of every node: one clear line for what a user can mend, a tidy end on SIGINT and SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from fosp_core.bundle import BundleError
from fosp_ros import scheduling
from fosp_ros.errors import ConfigurationError

EXIT_OK = 0
EXIT_CONFIGURATION = 1
EXIT_FAILURE = 2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(factory: Callable[[], Node], name: str, args: Sequence[str] | None = None) -> int:
    """Create a node and spin it until it is told to stop.

    The executor runs in a thread of its own so that the main thread can wait for signals: the node's ``close`` then
    still has a valid context to send its last messages with. For the main thread of a process that ends with it: the
    signals are ignored from then on.

    Returns:
        0 after a signal; 1 when the configuration is wrong (said in one line); 2 when a callback raised.
    """
    logging.basicConfig(level=logging.WARNING, format=f"[%(levelname)s] [{name}]: %(message)s")
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        return _complain(name, f"ROS cannot start: {error}")
    node: Node | None = None
    try:
        try:
            node = factory()
            # A lifecycle node that waits for transitions has its work before it still.
            if getattr(node, "is_active", True):
                scheduling.claim_real_time()
        except (ConfigurationError, BundleError) as error:
            return _complain(name, str(error))
        return _spin(node, name, stop)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # A terminal and a launcher both send SIGINT; the second one must not make a tidy end look like a failure.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _spin(node: Node, name: str, stop: threading.Event) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failure: list[Exception] = []

    def spin() -> None:
        try:
            while not stop.is_set() and rclpy.ok():
                executor.spin_once()
        except Exception as error:
            failure.append(error)
        finally:
            stop.set()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    stop.wait()
    # Any task makes a waiting spin_once return.
    executor.create_task(lambda: None)
    spinner.join(timeout=5.0)
    close = getattr(node, "close", None)
    if close is not None and not spinner.is_alive():
        close()
    executor.remove_node(node)
    executor.shutdown(timeout_sec=1.0)
    if failure:
        error = failure[0]
        if isinstance(error, ConfigurationError):
            return _complain(name, str(error))
        logging.getLogger(name).error("stopped by an error that should not happen", exc_info=error)
        return EXIT_FAILURE
    return EXIT_OK


def _complain(name: str, message: str) -> int:
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return EXIT_CONFIGURATION

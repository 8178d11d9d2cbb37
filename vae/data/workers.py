"""Work on pictures in several processes: threads would block one another in Python."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


@contextlib.contextmanager
def worker_map(
    processes: int,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    chunk: int = 1,
) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a map over several processes that keeps the order; below two it works in this process.

    start(*arguments) is called once in every process before its first piece of work. chunk is the
    number of pieces that a process takes at once. Linux forks, as torch's own loaders do there, so
    a worker imports nothing.
    """
    if processes < 2:
        if start:
            start(*arguments)
        yield map
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(processes, context, _begin, (start, arguments)) as pool:
        try:
            yield functools.partial(pool.map, chunksize=chunk)
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # on Ctrl-C the main process stops the workers; they print no tracebacks of their own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if start:
        start(*arguments)

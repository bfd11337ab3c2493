"""Tasks over worker processes: disjoint parts of one job, results in order, no orphan left behind."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from saeinterp_mcp.errors import SaeInterpError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_tasks(
    task: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """`task(item)` for each item, over `workers` processes; yields results in the order of `items`.

    With one worker or one item everything runs in this process. `task` must be picklable: a function of a module,
    or `functools.partial` of one with small arguments (paths rather than arrays). A task writes only files that are
    its own. When this process dies, however it dies, its workers end too.

    Raises:
        Whatever a task raises; of several, that of the first item in order among those begun.
        SaeInterpError: a worker was killed (out of memory, most often).
    """
    if workers <= 1 or len(items) <= 1:
        for done, item in enumerate(items):
            yield task(item)
            progress(done + 1, len(items))
        return
    with ProcessPoolExecutor(
        min(workers, len(items)), multiprocessing.get_context("spawn"), initializer=_die_with_parent
    ) as pool:
        waiting: dict[int, Future[Result]] = {}
        begun = done = 0
        try:
            while done < len(items):
                while begun < len(items) and begun - done < 2 * workers:
                    waiting[begun] = pool.submit(task, items[begun])
                    begun += 1
                yield waiting.pop(done).result()
                done += 1
                progress(done, len(items))
        except BrokenProcessPool as error:
            raise SaeInterpError(
                "a worker process was killed, most often for want of memory; run again with fewer --workers or a "
                "smaller --max-memory: what is done is kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile multiply matrices with one thread; those of two workers wait for each other."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Replicas beside each other in processes of their own, with one progress bar over all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nanomd.base.errors import CancelledError, StoreError
from nanomd.base.progress import Progress
from nanomd.systems.dynamics import Dynamics, Molecule
from nanomd.systems.langevin import Watch
from nanomd.systems.replica_worker import Replica, run_replica

_POLL_SECONDS = 0.2

_shared: tuple[Any, Any] | None = None  # of a worker process: queue of frames done, event to stop


def _enter(queue: Any, stop: Any) -> None:
    """Prepare a worker process."""
    global _shared
    _shared = (queue, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this process with its parent, which cannot ask for it when killed; finished segments are on the disk."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(replica: Replica, molecule: Molecule, dynamics: Dynamics) -> float:
    assert _shared is not None
    queue, stop = _shared
    return run_replica(replica, molecule, dynamics, Watch(queue.put, stop.is_set))


def run_replicas(
    replicas: list[Replica], molecule: Molecule, dynamics: Dynamics, n_workers: int, bar: Progress
) -> float:
    """Simulate all replicas, `n_workers` at a time, and return the seconds spent on frames, summed over processes."""
    if n_workers == 1:
        watch = Watch(bar.update, lambda: False)
        return sum(run_replica(replica, molecule, dynamics, watch) for replica in replicas)
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads and locks of the parent
    queue, stop = context.Queue(), context.Event()
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_enter, initargs=(queue, stop)) as pool:
        try:
            waiting: set[Future[float]] = {pool.submit(_work, item, molecule, dynamics) for item in replicas}
            busy = 0.0
            while waiting:
                done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                while not queue.empty():
                    bar.update(queue.get())
                busy += sum(future.result() for future in done)
            while not queue.empty():
                bar.update(queue.get())
        except BrokenProcessPool:
            raise StoreError(
                "a simulating process died; go on with --resume. If this came at once from a script, guard its main "
                "part with `if __name__ == '__main__':`, since it starts processes"
            ) from None
        except CancelledError:
            raise StoreError("the simulation was stopped; go on with --resume") from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return busy

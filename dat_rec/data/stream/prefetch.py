"""Batches in, the same batches out, made in a thread while training is busy with the one before.

For an accelerator they come in page-locked memory, from which they are copied to it while it
computes; out of other memory the host would wait for each copy.
"""

import queue
import threading
import time
from collections.abc import Iterator

import torch

from dat_rec.data.stream.batch import Batch

STOP_S = 15.0
"""Maximum seconds to wait for the thread's end."""


class Prefetcher:
    """Runs an iterator in a thread, ``depth`` batches ahead, and times the waiting for it.

    Args:
        batches: what to run ahead.
        device: where they will be used.
        depth: maximum number of batches that are made and not yet taken.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device, depth: int = 4) -> None:
        self.wait_s = 0.0
        """Seconds that training has waited for batches so far."""
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches, device), daemon=True)
        self._thread.start()

    def _run(self, batches: Iterator[Batch], device: torch.device) -> None:
        try:
            if device.type == "cuda":
                # A thread of its own begins on the first GPU, and would take memory there.
                torch.cuda.set_device(device)
            for batch in batches:
                self._put(batch if device.type == "cpu" else batch.pin_memory())
                if self._stopped.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, value: Batch | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(value, timeout=0.1)
                return
            except queue.Full:
                continue

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        value = self._queue.get()
        self.wait_s += time.perf_counter() - start
        if isinstance(value, Batch):
            return value
        self._queue.put(value)
        if value is None:
            raise StopIteration
        raise value

    def close(self) -> None:
        """Stop the thread and wait for its end; one that hangs in a file system is left behind."""
        self._stopped.set()
        self._thread.join(STOP_S)

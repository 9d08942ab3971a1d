"""Watchdog: a run that no longer moves ends, so that it can be started again."""

import faulthandler
import os
import sys
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.signals import STOPPED


class Watchdog(Callback):
    """End this process with code 75 when no batch begins or ends for a while.

    A rank that waits in a collective for one that froze, for data that do not come or for a file system that hangs
    cannot notice by itself; NCCL's and gloo's own timeouts are 10 to 30 minutes, and cover collectives alone. Where
    all threads stood is written to stderr.

    Args:
        timeout_s: seconds; longer than the longest step, validation batch or writing of shards takes.

    Raises:
        ValueError: when it is not positive.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"stall_timeout_s is {timeout_s}, expected more than 0")
        self.timeout_s = timeout_s
        self.moved = time.monotonic()
        self.done = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._move()
        self.done.clear()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.done.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1:
            self.done.set()  # elsewhere it goes on: what is left to do may wait for ranks that are gone

    def _move(self, *_: Any) -> None:
        self.moved = time.monotonic()

    on_train_start = on_train_batch_start = on_train_batch_end = _move
    on_validation_batch_start = on_validation_batch_end = on_validation_end = on_train_end = _move

    def _watch(self) -> None:
        while not self.done.wait(min(1.0, self.timeout_s / 10)):
            silent_s = time.monotonic() - self.moved
            if silent_s > self.timeout_s:
                print(
                    f"\nnothing has moved for {silent_s:.0f} s, more than stall_timeout_s:", file=sys.stderr
                )
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                sys.stderr.flush()
                os._exit(STOPPED)

"""Peak resident memory of a block of code."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil


class PeakMemory:
    """Samples the process's resident memory every two milliseconds; ``megabytes`` is the peak above the start."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._peak = max(self._peak, self._process.memory_info().rss)
            time.sleep(0.002)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        """Peak above the start, in MB."""
        return (self._peak - self._start) / 1e6

"""A lock that keeps two runs out of one folder. It is the operating system's, so a killed run leaves none behind."""

from __future__ import annotations

import os
import pathlib

try:
    import fcntl
except ImportError:  # Windows has no such locks; there two runs are not told apart
    fcntl = None  # type: ignore[assignment]  # only asked whether it is there


#: the locks of this process: a run that an error stopped leaves its lock behind, and the next run in the same process takes it over
_HELD: dict[pathlib.Path, FolderLock] = {}


class FolderLock:
    """Holds a folder for one run.

    :param folder: the folder; it is made if it does not exist
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / ".running"
        self._file: int | None = None

    def take(self) -> None:
        """Take the lock.

        :raises ValueError: if another run holds it
        """
        if fcntl is None or self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.resolve() in _HELD:
            _HELD[self.path.resolve()].release()
        while self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(file)
                raise ValueError(
                    f"folder must not be used by another run, got {str(self.path.parent)!r}, where one is at work; "
                    "use another folder, or stop that run"
                ) from error
            if self._still_named(file):
                self._file = file
            else:
                # the run that held it gave it back, and removed the file, after we had opened it: a third run would lock another file
                os.close(file)
        _HELD[self.path.resolve()] = self

    def _still_named(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            _HELD.pop(self.path.resolve(), None)
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

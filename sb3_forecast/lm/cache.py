"""Where trained starting models are kept."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable


def cache_folder() -> pathlib.Path:
    """``$XDG_CACHE_HOME/sb3_forecast/lm``, or the same under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache") / "sb3_forecast" / "lm"


def write_atomically(folder: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Fill a folder so that a stopped run leaves all of it or nothing.

    :param folder: the folder
    :param write: fills the folder that it is given
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        write(partial)
        os.replace(partial, folder)
    except OSError:
        shutil.rmtree(partial)
        # another process may have been faster; its result is the same
        if not folder.exists():
            raise

"""Write files and folders completely or not at all, and find the cache folder."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from io import BufferedWriter
from typing import Any


def cache_folder() -> pathlib.Path:
    """Folder for results that can be computed again.

    :return: ``$XDG_CACHE_HOME/sb3_forecast``, or ``~/.cache/sb3_forecast``
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache") / "sb3_forecast"


def write_whole(path: str | pathlib.Path, write: Callable[[BufferedWriter], object]) -> None:
    """Write a file completely or not at all, even if the process is killed or the disk is full.

    :param path: the file; an older file of the same name stays until the new one is complete
    :param write: function that writes the content to an open binary file
    :raises OSError: if the file cannot be written
    """
    target = pathlib.Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        # mkstemp makes files that only their owner can read; other users may read an ordinary file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def check_output(name: str, path: str | pathlib.Path | None, suffixes: tuple[str, ...]) -> None:
    """See that a file can be written, before the work that fills it.

    :param name: name of the argument
    :param path: the file; ``None`` if nothing is to be written
    :param suffixes: allowed suffixes
    :raises ValueError: if the suffix is another, the folder does not exist, or it is not writable
    """
    if path is None:
        return
    target = pathlib.Path(path)
    if target.suffix.lower() not in suffixes:
        raise ValueError(
            f"{name} must end in {' or '.join(suffixes)}, got {str(path)!r}; use {target.stem or 'file'}{suffixes[0]}"
        )
    if not target.parent.is_dir():
        raise ValueError(f"{name} must be in a folder that exists, got {str(path)!r}; make {str(target.parent)!r} first")
    if target.is_dir() or not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise ValueError(f"{name} must be a file that can be written, got {str(path)!r}; use another name or folder")


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all.

    :param path: the file
    :param text: the content
    :raises OSError: if the file cannot be written
    """
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: str | pathlib.Path, content: Any) -> None:
    """Write a JSON file, completely or not at all.

    :param path: the file
    :param content: any value that ``json`` can write
    :raises OSError: if the file cannot be written
    """
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: str | pathlib.Path) -> Any:
    """Read a JSON file.

    :param path: the file
    :return: its content
    """
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def fill_whole(folder: str | pathlib.Path, fill: Callable[[pathlib.Path], None]) -> None:
    """Make a folder with all of its files, or make nothing.

    :param folder: the folder; it must not exist
    :param fill: function that writes the files into the folder that it gets as its argument
    :raises OSError: if something cannot be written. If another process made the folder in the meantime, that folder is kept
        and there is no error
    """
    target = pathlib.Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        fill(partial)
        os.chmod(partial, 0o777 & ~_umask())
        os.replace(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not (isinstance(error, OSError) and target.exists()):
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

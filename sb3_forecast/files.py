"""Write files and folders completely or not at all, and find the cache folder."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedWriter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def cache_folder() -> pathlib.Path:
    """Folder for results that can be computed again.

    :return: ``$XDG_CACHE_HOME/sb3_forecast``, or ``~/.cache/sb3_forecast``
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache") / "sb3_forecast"


class _Remembering(io.FileIO):
    """A file that keeps the error of its first failed write: writers of archives hide it behind errors of their own."""

    failed: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failed = self.failed or error
            raise


def write_whole(path: str | pathlib.Path, write: Callable[[BufferedWriter], object]) -> None:
    """Write a file completely or not at all, even if the process is killed or the disk is full.

    A process that is killed can leave a hidden file ``.<name>.<random>.tmp`` behind, which nothing reads.

    :param path: the file; an older file of the same name stays until the new one is complete
    :param write: function that writes the content to an open binary file
    :raises OSError: if the file cannot be written; the message names it, the reason and the remedy
    """
    with _put_in_place(path) as (handle, _):
        raw = _Remembering(handle, "wb")
        try:
            with cast(BufferedWriter, io.BufferedWriter(raw)) as file:
                write(file)
        except Exception as error:
            if raw.failed is not None and raw.failed is not error:
                raise raw.failed from error
            raise


def write_by_name(path: str | pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Write a file completely or not at all, as :func:`write_whole`, with a writer that needs a name and not an open file.

    :param path: the file; an older file of the same name stays until the new one is complete
    :param write: function that writes the file with the name that it gets, which has the same suffix
    :raises OSError: if the file cannot be written; the message names it, the reason and the remedy
    """
    with _put_in_place(path, pathlib.Path(path).suffix) as (handle, name):
        os.close(handle)
        write(pathlib.Path(name))


@contextmanager
def _put_in_place(path: str | pathlib.Path, suffix: str = "") -> Iterator[tuple[int, str]]:
    """An open file under another name, which gets its own name when all is written."""
    target = pathlib.Path(path)
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=f".tmp{suffix}")
        yield handle, name
        # mkstemp makes files that only their owner can read; other users may read an ordinary file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException as error:
        if name is not None:
            pathlib.Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_written(target, error) from error
        raise


_REMEDIES = {
    errno.ENOSPC: "free some space, or use another disk",
    errno.EDQUOT: "free some space, or use another disk",
    errno.EFBIG: "allow larger files (ulimit -f), or use another disk",
    errno.ENOENT: "make its folder first, or use another one",
    errno.ENOTDIR: "make its folder first, or use another one",
}


def _not_written(target: pathlib.Path, error: OSError) -> OSError:
    """An error of the same class that says which file, and what to do."""
    kept = "the earlier file is unchanged" if target.exists() else "no part of it is left"
    remedy = _REMEDIES.get(error.errno or 0, "use another folder or disk")
    # for most reasons OSError has a class of its own
    raised = type(OSError(error.errno, ""))(f"{target} could not be written ({error.strerror or error}); {kept}; {remedy}")
    raised.errno = error.errno
    return raised


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


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Give a damaged file another name, so that it can be made again and looked at.

    :param path: the file
    :return: the new name, with the suffix ``.damaged``
    """
    aside = path.with_suffix(".damaged")
    with suppress(FileNotFoundError):  # another process was faster
        path.replace(aside)
    return aside


def save_arrays(path: str | pathlib.Path, arrays: Mapping[str, NDArray[Any]], about: str = "", compress: bool = False) -> None:
    """Write arrays into an npz file with a checksum, completely or not at all.

    :param path: the file
    :param arrays: by name; the name "digest" is taken
    :param about: what the arrays were made of; they are read only with the same text
    :param compress: whether to compress them
    :raises OSError: if the file cannot be written
    """
    content: dict[str, Any] = {**arrays, "digest": digest_of(arrays, about)}
    write_whole(path, lambda file: (np.savez_compressed if compress else np.savez)(file, **content))


def load_arrays(path: pathlib.Path, what: str, about: str = "") -> dict[str, NDArray[Any]] | None:
    """Read the arrays of :func:`save_arrays`. A damaged file is named in a warning and set aside.

    :param path: the file
    :param what: what the arrays are, for the warning
    :param about: as given to :func:`save_arrays`
    :return: arrays by name; ``None`` if there is no file, or it is damaged
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = dict(file)
        if str(arrays.pop("digest")) != digest_of(arrays, about):
            raise ValueError("its checksum is another")
    except Exception as error:  # zipfile, zlib, numpy and our own check
        aside = set_aside(path)
        warnings.warn(
            f"the stored {what} in {path} are damaged ({error}): they are set aside as {aside.name} and made again",
            stacklevel=3,
        )
        return None
    return arrays


def digest_of(arrays: Mapping[str, Any], about: str = "") -> str:
    """Checksum of some arrays.

    :param arrays: by name
    :param about: what they were made of
    :return: hexadecimal digits
    """
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


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


def without_nan(value: Any) -> Any:
    """A value for JSON, which has neither NaN nor infinity: they become ``None``.

    :param value: numbers, texts, dictionaries and lists of them
    """
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

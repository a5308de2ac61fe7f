"""Plain data in files: numbers, texts, arrays, tensors and containers of them, as JSON and npz. Reading executes nothing.

The JSON holds the tree, the npz the arrays. Containers that JSON does not know are marked by a key of their own.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections import deque
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.files import write_json, write_text, write_whole

_MARK = "__plain__"
_CHECKSUMS = "checksums.json"


class NotPlainError(TypeError):
    """A value is of a kind that plain data cannot hold."""


class DamagedError(ValueError):
    """A file is not what was written."""


def write_plain(folder: pathlib.Path, name: str, content: Any) -> None:
    """Write ``<name>.json`` and ``<name>.npz``.

    :param folder: an existing folder
    :param name: of the files
    :param content: plain data
    :raises NotPlainError: if it holds anything else; then nothing is written
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tree = _encoded(content, arrays, name)
    write_whole(folder / f"{name}.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # its keywords are arrays
    write_text(folder / f"{name}.json", json.dumps(tree))


def read_plain(folder: pathlib.Path, name: str) -> Any:
    """Read what :func:`write_plain` wrote.

    :param folder: the folder
    :param name: of the files
    :return: the content
    :raises DamagedError: if a file is damaged
    """
    try:
        tree = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with (folder / f"{name}.npz").open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            arrays = dict(loaded)
        return _decoded(tree, arrays)
    except Exception as error:  # json, zipfile, zlib, numpy and our own lookups raise many kinds
        raise DamagedError(f"{folder / name} is damaged ({error})") from error


def write_checksums(folder: pathlib.Path) -> None:
    """Write ``checksums.json``: the SHA-256 of every file in a folder.

    :param folder: the folder, complete
    """
    found = {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name != _CHECKSUMS}
    write_json(folder / _CHECKSUMS, found)


def check_checksums(folder: pathlib.Path) -> None:
    """See that every file of a folder is as it was written.

    :param folder: the folder
    :raises DamagedError: naming the first file that is not
    """
    try:
        expected = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        names = dict(expected).items()
    except Exception as error:
        raise DamagedError(f"{folder / _CHECKSUMS} is damaged or missing ({error})") from error
    for name, digest in names:
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            raise DamagedError(f"{path} is damaged or missing: its checksum is another")


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )


def _encoded(value: Any, arrays: dict[str, Any], where: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic, th.Tensor)):
        array = value.detach().cpu().numpy() if isinstance(value, th.Tensor) else np.asarray(value)
        if array.dtype.hasobject:
            raise NotPlainError(f"{where} must hold plain data, got an array of Python objects")
        kind = "tensor" if isinstance(value, th.Tensor) else "array" if isinstance(value, np.ndarray) else "number"
        key = f"a{len(arrays)}"
        arrays[key] = array
        return {_MARK: kind, "key": key}
    if isinstance(value, bytes):
        return {_MARK: "bytes", "hex": value.hex()}
    if isinstance(value, np.random.Generator):
        return {_MARK: "generator", "state": _encoded(value.bit_generator.state, arrays, where)}
    if isinstance(value, deque):
        return {_MARK: "deque", "maxlen": value.maxlen, "items": [_encoded(v, arrays, where) for v in value]}
    if isinstance(value, (tuple, set)):
        kind = "set" if isinstance(value, set) else "tuple"
        items = sorted(value) if isinstance(value, set) else value
        return {_MARK: kind, "items": [_encoded(v, arrays, where) for v in items]}
    if isinstance(value, list):
        return [_encoded(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and _MARK not in value:
            return {key: _encoded(v, arrays, f"{where}.{key}") for key, v in value.items()}
        return {_MARK: "dict", "items": [[_encoded(k, arrays, where), _encoded(v, arrays, where)] for k, v in value.items()]}
    raise NotPlainError(f"{where} must hold plain data, got {type(value).__name__}")


def _decoded(tree: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_decoded(v, arrays) for v in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(_MARK)
    if kind is None:
        return {key: _decoded(v, arrays) for key, v in tree.items()}
    if kind == "array":
        return arrays[tree["key"]]
    if kind == "tensor":
        return th.from_numpy(np.array(arrays[tree["key"]]))
    if kind == "number":
        return arrays[tree["key"]][()]
    if kind == "bytes":
        return bytes.fromhex(tree["hex"])
    if kind == "generator":
        state = _decoded(tree["state"], arrays)
        bits = {"PCG64": np.random.PCG64, "Philox": np.random.Philox, "MT19937": np.random.MT19937, "SFC64": np.random.SFC64}
        generator = np.random.Generator(bits[state["bit_generator"]]())
        generator.bit_generator.state = state
        return generator
    items = [_decoded(v, arrays) for v in tree["items"]]
    if kind == "deque":
        return deque(items, tree["maxlen"])
    if kind == "dict":
        return dict(items)
    return {"tuple": tuple, "set": set}[kind](items)

"""The rounds of an active evaluation in a folder, so that a run that was stopped goes on."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.files import load_arrays, read_json, save_arrays, write_json


class RoundStore:
    """Finished rounds in a folder.

    :param folder: the folder; it is made if it does not exist
    :param about: everything that the choices and the scores depend on
    :raises ValueError: if the folder holds another evaluation
    """

    def __init__(self, folder: pathlib.Path, about: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        path = folder / "about.json"
        if not path.exists():
            write_json(path, about)
            return
        try:
            found = read_json(path)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"folder must hold an evaluation, got {str(folder)!r}, whose about.json is damaged; use another folder"
            ) from error
        if found != about:
            other = {key: found.get(key) for key in about if found.get(key) != about[key]}
            raise ValueError(f"folder must hold this evaluation, got {str(folder)!r} with {other}; use another folder")

    def load(self, number: int, tasks: NDArray[np.int64]) -> dict[str, Any] | None:
        """The scores of a round.

        :param number: of the round, from 0
        :param tasks: the tasks that were chosen for it
        :return: what was stored; ``None`` if there is nothing, or it is damaged. A damaged file is named and set aside
        :raises ValueError: if the round holds other tasks
        """
        path = self._path(number)
        found = load_arrays(path, "scores")
        if found is None:
            return None
        if not np.array_equal(found["tasks"], tasks):
            raise ValueError(
                f"folder must hold rounds of this evaluation, got other tasks in {path}: a package changed, or the pool's descriptors did; use "
                "another folder"
            )
        return found

    def save(self, number: int, found: dict[str, Any]) -> None:
        """Store a round, completely or not at all.

        :param number: of the round, from 0
        :param found: arrays by name
        """
        save_arrays(self._path(number), {name: np.asarray(value) for name, value in found.items()})

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"round-{number}.npz"

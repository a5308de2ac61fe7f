"""The folder of a deployment's scores: one Parquet file per block, written once, with the block's sketch in its footer."""

from __future__ import annotations

import base64
import json
import pathlib
import posixpath
import re
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from sb3_forecast.files import write_whole
from sb3_forecast.scorers.blocks import BlockScores
from sb3_forecast.statistics.sketch import TailSketch

_BLOCK = re.compile(r"tasks-(\d+)-(\d+)\.parquet")
_NUMBERS = ("psi", "p", "success")


class ScoresFolder:
    """A folder on a disk that all machines share, or in an object store.

    :param where: path, or an address that pyarrow knows, such as ``s3://bucket/folder``
    :raises ValueError: if the address is unknown to pyarrow
    """

    def __init__(self, where: str | pathlib.Path) -> None:
        text = str(where)
        try:
            self.files, self.path = fs.FileSystem.from_uri(text if "://" in text else pathlib.Path(text).absolute().as_uri())
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"folder must be a path or an address that pyarrow knows, got {text!r} ({error}); use for example 's3://bucket/scores'"
            ) from error
        #: as the workers read it: they have another working folder
        self.where = text if "://" in text else self.path
        self._local = isinstance(self.files, fs.LocalFileSystem)

    def make(self) -> None:
        """Make the folder if it does not exist."""
        self.files.create_dir(self.path, recursive=True)

    def read(self, name: str) -> bytes | None:
        """Content of a file; ``None`` if there is none.

        :param name: name of the file
        """
        try:
            with self.files.open_input_stream(self._at(name)) as file:
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file completely or not at all.

        :param name: name of the file
        :param content: what to write
        :raises OSError: if it cannot be written
        """
        if self._local:
            write_whole(self._at(name), lambda file: file.write(content))
            return
        # object stores show a file when it is complete
        with self.files.open_output_stream(self._at(name)) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        :param name: name of the file
        """
        with suppress(FileNotFoundError):
            self.files.delete_file(self._at(name))

    def check_claim(self, content: dict[str, Any]) -> bool:
        """See that the folder holds nothing, or scores that depend on the same.

        :param content: what scores depend on
        :return: whether it holds a claim
        :raises ValueError: if it holds something else, or does not say what
        """
        found = self.read("about.json")
        if found is None:
            if self.blocks():
                raise ValueError(
                    f"folder must say which scores it holds, got {self.where!r} with scores and no about.json; use another folder"
                )
            return False
        try:
            theirs = dict(json.loads(found))
        except ValueError as error:
            raise ValueError(
                f"folder must say which scores it holds, got a damaged about.json in {self.where!r} ({error}); use another folder"
            ) from error
        if theirs != content:
            differ = sorted(name for name in {*theirs, *content} if theirs.get(name) != content.get(name))
            other, ours = ({name: side.get(name) for name in differ} for side in (theirs, content))
            raise ValueError(
                f"folder must hold scores that were made with the same {' and '.join(differ)}, got {self.where!r} with {other} instead of "
                f"{ours}; use another folder, or delete this one"
            )
        return True

    def claim(self, content: dict[str, Any]) -> None:
        """Write what the folder will hold into it.

        :param content: what scores depend on
        :raises OSError: if it cannot be written
        """
        self.write("about.json", (json.dumps(content, indent=1) + "\n").encode())

    def blocks(self) -> dict[int, str]:
        """Names of the files of finished blocks, by their first task."""
        found = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        files = [info.base_name for info in found if info.type == fs.FileType.File]
        matches = [(match, name) for name in files if (match := _BLOCK.fullmatch(name))]
        return {int(match[1]): name for match, name in matches}

    def sweep(self) -> None:
        """Remove what workers that died have left of their tries; all blocks are done."""
        found = self.files.get_file_info(fs.FileSelector(self.path))
        for info in found:
            if info.base_name.startswith(".tasks-") and info.base_name.endswith(".tries"):
                self.remove(info.base_name)

    def write_block(self, scores: BlockScores, sketch: bytes, about: str) -> None:
        """Write the scores of a block.

        :param scores: the scores
        :param sketch: the block's sketch
        :param about: what the scores depend on
        :raises OSError: if the file cannot be written
        """
        n = len(scores.psi)
        ids = np.arange(scores.begin, scores.begin + n)
        table = pa.table(
            {
                "task": ids,
                "psi": scores.psi,
                "p": scores.failure,
                "success": scores.success,
                "rare": scores.rare,
                "steps": scores.steps,
                "error": pa.array([scores.errors.get(int(task)) for task in ids], pa.string()),
            }
        ).replace_schema_metadata({"sb3_forecast": about, "sketch": base64.b64encode(sketch)})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, write_page_checksum=True)
        self.write(block_name(scores.begin, scores.begin + n), buffer.getvalue().to_pybytes())

    def sketches(self, about: str) -> Iterator[tuple[int, TailSketch]]:
        """First task and sketch of each finished block, from the footers alone. Damaged files are named and set aside.

        :param about: what the scores must depend on
        :raises OSError: if a file cannot be read
        """
        with ThreadPoolExecutor(8) as pool:  # object stores answer slowly, and many at once
            items = sorted(self.blocks().items())
            for first in range(0, len(items), 64):  # few at once: a sketch takes up to 600 kB
                for begin, sketch in pool.map(lambda item: (item[0], self._sketch(item[1], about)), items[first : first + 64]):
                    if sketch is not None:
                        yield begin, sketch

    def _sketch(self, name: str, about: str) -> TailSketch | None:
        with self.files.open_input_file(self._at(name)) as file:
            try:
                footer = pq.ParquetFile(file)
                kept = footer.schema_arrow.metadata
                if kept[b"sb3_forecast"].decode() != about:
                    raise ValueError("it holds other scores")
                match = _BLOCK.fullmatch(name)
                if match is None or footer.metadata.num_rows != int(match[2]) - int(match[1]) + 1:
                    raise ValueError("it holds another number of tasks")
                return TailSketch.from_bytes(base64.b64decode(kept[b"sketch"]))
            except (
                pa.ArrowException,
                ValueError,
                KeyError,
                TypeError,
            ) as error:  # what pyarrow and a sketch say of damaged bytes
                why = str(error)
        self.files.move(self._at(name), self._at(f"{name}.damaged"))
        warnings.warn(
            f"the scores in {name} of {self.where} are damaged ({why}): they are set aside as {name}.damaged and made again",
            stacklevel=4,
        )
        return None

    def columns(self) -> Iterator[pa.Table]:
        """The tables of all blocks, in the order of the tasks, one at a time."""
        for _, name in sorted(self.blocks().items()):
            with self.files.open_input_file(self._at(name)) as file:
                yield pq.read_table(file, page_checksum_verification=True)

    def token(self) -> tuple[str, str]:
        """Write a file that every machine must see: its name and its content."""
        name, content = f".shared-{uuid.uuid4().hex}", uuid.uuid4().hex
        self.write(name, content.encode())
        return name, content

    def _at(self, name: str) -> str:
        return posixpath.join(self.path, name)


def block_name(begin: int, end: int) -> str:
    """Name of the file of tasks ``begin`` to ``end - 1``.

    :param begin: first task
    :param end: one more than the last task
    """
    return f"tasks-{begin}-{end - 1}.parquet"


def read_scores(folder: str | pathlib.Path) -> dict[str, NDArray[Any]]:
    """All scores of a folder in memory. For very many tasks, read the Parquet files with a tool of your own.

    :param folder: folder that :func:`~sb3_forecast.cluster.score` filled
    :return: columns by name: task (int64), psi, p, success (float64, NaN where unknown), rare (bool), steps (int64), in the order of the tasks
    :raises ValueError: if there are none
    """
    tables = list(ScoresFolder(folder).columns())
    if not tables:
        raise ValueError(f"folder must hold scores, got {str(folder)!r} without any; use the folder that was given to score()")
    table = pa.concat_tables(tables).drop_columns(["error"])
    return {name: table.column(name).to_numpy() for name in table.column_names}


def read_errors(folder: str | pathlib.Path) -> dict[int, str]:
    """What the tasks raised that could not be scored.

    :param folder: folder that :func:`~sb3_forecast.cluster.score` filled
    :return: texts by task
    """
    found: dict[int, str] = {}
    for table in ScoresFolder(folder).columns():
        failed = table.filter(pc.is_valid(table["error"]))
        found |= dict(zip(failed["task"].to_pylist(), failed["error"].to_pylist(), strict=True))
    return found

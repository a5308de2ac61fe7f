"""One JSON record per run: what was run, with what code, and what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch as th

from sb3_forecast.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
#: records that the documentation's tables are made of
PUBLISHED = ROOT / "studies" / "records"
#: packages whose versions a record keeps
PACKAGES = ("stable-baselines3", "gymnasium", "minigrid", "torch", "numpy", "scipy", "numba", "transformers", "peft")


@dataclass(frozen=True)
class Record:
    """A finished run.

    :param study: name of the study
    :param method: what was run
    :param seed: its seed
    :param settings: the settings that the result depends on
    :param result: what was measured
    :param seconds: how long it took
    :param code: ``commit`` (with ``+`` if the tree had changes) and ``sources``, a checksum of the code that the result depends on
    :param packages: versions
    :param python: version
    :param threads: of torch
    :param processor: architecture and number of cores
    """

    study: str
    method: str
    seed: int
    settings: dict[str, Any]
    result: dict[str, Any]
    seconds: float
    code: dict[str, str]
    packages: dict[str, str]
    python: str
    threads: int
    processor: str

    def write(self, folder: Path) -> Path:
        """Write the record; whole or not there.

        :param folder: where to
        :return: the file
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = record_path(folder, self.method, self.seed)
        content = asdict(self)
        write_json(path, {**content, "checksum": _checksum_of(content)})
        return path


def record_path(folder: Path, method: str, seed: int) -> Path:
    """Where a run's record is.

    :param folder: the records of a study
    :param method: what was run
    :param seed: its seed
    """
    return folder / f"{method}-seed{seed}.json"


class DamagedRecordError(ValueError):
    """A record is not what was written."""


def _checksum_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_record(path: Path) -> Record:
    """A record from its file.

    :param path: the file
    :raises DamagedRecordError: if it is not what was written; records before 0.3.0 have no checksum, so of them only the form is checked
    """
    try:
        content = dict(read_json(path))
        written = content.pop("checksum", None)
        if written is not None and written != _checksum_of(content):
            raise ValueError("its checksum is another")
        return Record(**content)
    except (ValueError, TypeError) as error:
        raise DamagedRecordError(f"{path} is damaged ({error}); delete it, and run it again") from error


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, by method and seed.

    :param folder: where they are
    """
    found = [read_record(path) for path in sorted(folder.glob("*-seed*.json"))]
    return sorted(found, key=lambda record: (record.method, record.seed))


def make_record(
    study: str,
    method: str,
    seed: int,
    settings: dict[str, Any],
    result: dict[str, Any],
    seconds: float,
    sources: Sequence[str],
) -> Record:
    """A record of a run that has just ended here.

    :param study: name of the study
    :param method: what was run
    :param seed: its seed
    :param settings: the settings that the result depends on
    :param result: what was measured
    :param seconds: how long it took
    :param sources: globs, relative to the repository, of the code that the result depends on
    """
    return Record(
        study=study,
        method=method,
        seed=seed,
        settings=settings,
        result=result,
        seconds=round(seconds, 1),
        code={"commit": _commit(), "sources": checksum(sources)},
        packages=_versions(),
        python=platform.python_version(),
        threads=th.get_num_threads(),
        processor=f"{platform.machine()}, {os.cpu_count()} cores",
    )


def checksum(sources: Sequence[str], root: Path = ROOT) -> str:
    """What tells one state of some code from another.

    :param sources: globs, relative to ``root``
    :param root: the repository
    :return: 16 hexadecimal digits
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in sources for path in root.glob(pattern)}):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _commit() -> str:
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

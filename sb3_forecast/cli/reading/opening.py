"""Open a text file: compressed or not, in UTF-8 or UTF-16, with a byte-order mark or without."""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: what can follow the suffix of a text file
COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: need("zstandard", ".zst files", "pip install zstandard").open(path, "rb"),
}


def _plain(path: Path) -> Any:
    return path.open("rb")


_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def need(package: str, purpose: str, remedy: str) -> Any:
    """Import an optional package.

    :param package: its name
    :param purpose: what it reads
    :param remedy: the command that installs it
    :raises ValueError: if it is not installed
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{package} must be installed to read {purpose}, got an ImportError; run `{remedy}`") from error


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, without that of a compression, in lower case: ``".csv"`` for ``a.csv.gz``.

    :param path: the file
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in COMPRESSED else (suffixes or [""])[-1]


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file as text. Faults in its bytes become errors that name the file and the remedy.

    :param path: the file; ``.gz``, ``.bz2``, ``.xz`` and ``.zst`` are decompressed
    :raises ValueError: if the file is damaged, or its text is not UTF-8 or UTF-16
    """
    unpack = COMPRESSED.get(path.suffix.lower(), _plain)
    try:
        with unpack(path) as binary:
            start = binary.read(4)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
        with unpack(path) as binary, io.TextIOWrapper(binary, encoding=encoding, newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{path} must be text in UTF-8 or UTF-16, got the byte 0x{byte:02x}, which is neither; if it is latin-1 (Windows-1252), convert "
            f"it with `iconv -f latin1 -t utf-8`"
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} must be a whole compressed file, got a damaged one ({error}); copy it again") from error
    except OSError as error:
        if path.suffix.lower() == ".bz2":  # what bz2 raises for other bytes
            raise ValueError(f"{path} must be a whole compressed file, got a damaged one ({error}); copy it again") from error
        raise

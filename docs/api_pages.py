"""Writes the pages of the API reference: every public name, so that none is forgotten."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path

#: pages of the package `sb3_forecast`, by the subpackage in which a name is defined
PAGES: Mapping[str, str] = {
    "training": "Training",
    "measuring": "Measuring",
    "scorers": "Scorers",
    "statistics": "Statistics",
    "baselines": "Baselines",
}
#: further public packages
PACKAGES: Mapping[str, str] = {
    "sb3_forecast_envs": "Environments and pools",
    "sb3_forecast.lm": "Language models",
    "sb3_forecast.cluster": "On a cluster",
}


def public_names() -> dict[str, list[str]]:
    """Public names by page, each as a dotted name."""
    package = importlib.import_module("sb3_forecast")
    pages: dict[str, list[str]] = {page: [] for page in PAGES}
    for name in package.__all__:
        if name.startswith("__"):
            continue
        found = getattr(package, name)
        where = getattr(found, "__module__", "").split(".")
        page = where[1] if len(where) > 1 and where[1] in pages else "measuring"
        pages[page].append(f"sb3_forecast.{name}")
    for other in PACKAGES:
        pages[other] = [f"{other}.{name}" for name in importlib.import_module(other).__all__ if not name.startswith("__")]
    return pages


def write_api_pages(folder: Path) -> None:
    """Write one page per part of the API, and their index.

    :param folder: where to
    """
    folder.mkdir(exist_ok=True)
    titles = {**PAGES, **PACKAGES}
    for page, names in public_names().items():
        lines = [titles[page], "=" * len(titles[page]), ""]
        for name in sorted(names, key=str.lower):
            lines += [name.rpartition(".")[2], "-" * len(name), "", *_entry(name), ""]
        _write(folder / f"{page}.rst", "\n".join(lines))
    index = [
        "API reference",
        "=============",
        "",
        "Every public name.",
        "",
        ".. toctree::",
        "",
        *(f"   {page}" for page in titles),
        "",
    ]
    _write(folder / "index.rst", "\n".join(index))


def _entry(name: str) -> list[str]:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(found):
        return [f".. autoclass:: {name}", "   :members:", "   :show-inheritance:"]
    if callable(found):
        return [f".. autofunction:: {name}"]
    return [f".. py:data:: {name}", "   :no-index:", "", f"   A ``{type(found).__name__}``."]


def _write(path: Path, text: str) -> None:
    """Write a page if it differs, so that Sphinx does not read unchanged pages again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")

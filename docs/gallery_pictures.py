"""Gives the pictures that a tutorial has written to sphinx-gallery: our figures do not use pyplot, which is what it looks at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import move
from typing import Any

from sphinx_gallery.scrapers import figure_rst


def _pictures(block: Any, block_vars: Any, gallery_conf: Any) -> str:
    """Move the pictures of a block to where the page has them, and name them."""
    found = sorted(Path(block_vars["src_file"]).parent.glob("*.png"))
    names = []
    for file, place in zip(found, block_vars["image_path_iterator"], strict=False):
        move(file, place)
        names.append(place)
    return str(figure_rst(names, gallery_conf["src_dir"]))


def _get_sg_image_scraper() -> Callable[..., str]:
    """Sphinx-gallery calls this."""
    return _pictures

"""The site: `make docs` builds it into docs/_build/html, with warnings as errors and without a network."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from api_pages import write_api_pages

from sb3_forecast.version import __version__

project, author, release = "sb3_forecast", "The sb3_forecast authors", __version__
copyright = "2026, the sb3_forecast authors"  # Sphinx's name for it
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/*"]
html_theme = "furo"
html_title = "sb3_forecast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
templates_path: list[str] = []
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports: list[str] = []
autoclass_content = "class"


def _link_sources(app: Any, docname: str, source: list[str]) -> None:
    """Links that leave docs/ have no page on the site: they become names of files."""
    text = source[0].replace("](../CONTRIBUTING.md", "](contributing.md").replace("](../CHANGELOG.md", "](changelog.md")
    source[0] = re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2` in the repository)", text)


sphinx_gallery_conf: dict[str, Any] = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"/\d\d_",
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 10_000,
    "show_signature": False,
    "reset_modules": ("matplotlib",),
    "image_scrapers": ("gallery_pictures",),
}


class _MathML:
    """Equations as MathML, which browsers draw themselves: no script, no network."""

    @staticmethod
    def inline(visitor: Any, node: Any) -> None:
        from docutils import nodes
        from latex2mathml.converter import convert

        visitor.body.append(convert(node.astext()))
        raise nodes.SkipNode

    @staticmethod
    def block(visitor: Any, node: Any) -> None:
        from docutils import nodes
        from latex2mathml.converter import convert

        number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
        visitor.body.append(f'<div class="math">{number}{convert(node.astext(), display="block")}</div>')
        raise nodes.SkipNode


def setup(app: Any) -> None:
    """Sphinx calls this."""
    importlib.import_module("sb3_forecast_envs")
    write_api_pages(HERE / "api")
    app.add_html_math_renderer("mathml", inline_renderers=(_MathML.inline, None), block_renderers=(_MathML.block, None))
    app.connect("source-read", _link_sources)


html_math_renderer = "mathml"

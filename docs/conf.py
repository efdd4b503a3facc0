"""The site: `sphinx-build -W docs docs/_build/html`. Tutorials are run for it; a failing assert fails the build."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project, author, copyright = "isospike", "the isospike authors", "the isospike authors, MIT licence"
release = metadata.version("isospike")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
exclude_patterns = ["_build", "conf.py"]
html_theme, html_title, html_static_path = "furo", "isospike", ["_static"]
html_css_files = ["site.css"]
language = "en"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode, nb_execution_timeout, nb_execution_raise_on_error = "cache", 300, True
nb_execution_show_tb = True  # an example that fails says why, on the page of who builds it
nb_merge_streams = True
autodoc_default_options, autodoc_member_order, autodoc_typehints = {"members": True}, "bysource", "none"
suppress_warnings = ["mystnb.unknown_mime_type"]


def _bring_in(app, config):
    """The tutorials live beside `docs`, as scripts: they are copied in, so that pages can be built from them."""
    target = HERE / "tutorials"
    target.mkdir(exist_ok=True)
    wanted = {path.name: path for path in (HERE.parent / "tutorials").glob("[0-9][0-9]_*.py")}
    for path in target.glob("*.py"):
        if path.name not in wanted:
            path.unlink()
    for name, path in wanted.items():
        if not (target / name).exists() or (target / name).read_bytes() != path.read_bytes():
            shutil.copyfile(path, target / name)


class Pair(SphinxDirective):
    """```{pair} name``` shows `reference.name` and `accelerated.name` beside each other."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        side = "```{{eval-rst}}\n.. auto{}:: {}.{}\n   :no-index-entry:\n```"
        text = []
        for name in self.arguments[0].split():
            kind = "class" if name[0].isupper() else "function"
            both = [side.format(kind, package, name) for package in ("reference", "accelerated")]
            text += ["````{container} pair", *both, "````"]
        return self.parse_text_to_nodes("\n".join(text))


def _as_written(app, what, name, obj, options, lines):
    """Docstrings hold formulas: they are shown as they stand in the file, not read as markup."""
    if lines:
        lines[:] = [".. code-block:: text", "", *("   " + line for line in lines), ""]


def setup(app):
    app.add_directive("pair", Pair)
    app.connect("autodoc-process-docstring", _as_written)
    app.connect("config-inited", _bring_in)

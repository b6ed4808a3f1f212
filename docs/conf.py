"""How the documentation is built. Nothing is fetched: the build needs no network."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from shutil import which

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

from diagrams import STYLE  # noqa: E402 (it is found by the line above)

project = "platform-db"
author = "The platform-db maintainers"
project_copyright = author
release = version = installed_version("platform-db")

extensions = ["sphinx.ext.autodoc", "sphinx_click", "diagrams", "privileges", "reference", "rooms"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"platform-db {release}"
html_copy_source = False
smartquotes_action = "qe"  # not of dashes: the hints of errors name options such as --json

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"undoc-members": True}

# The port of graphviz that the extra brings draws the same everywhere; elsewhere the machine's own one draws.
graphviz_dot = which("graphviz-pure", path=str(Path(sys.executable).parent)) or "dot"
graphviz_dot_args = STYLE
graphviz_output_format = "svg"

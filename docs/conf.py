"""Sphinx settings: Markdown pages, and an API reference from the docstrings. Nothing is fetched."""

from importlib.metadata import version as installed_version

project = "anomalib-nagl"
author = "the authors of anomalib-nagl"
release = version = installed_version("anomalib-nagl")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
# README.md and the pages link to each other by file name; headings get the anchors that GitHub gives them.
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"anomalib-nagl {release}"
html_show_sourcelink = False
# Types are in the signatures alone, members in the order of the source.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "forward"}

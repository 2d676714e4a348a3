"""Sphinx configuration of the site that `make docs` builds, without a network, from what is in git.

`gather.py` puts the site's source together, in build/site-source.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import docstrings  # noqa: E402

project = "i2v-steering"
author = "The i2v-steering maintainers"
copyright = "The i2v-steering maintainers, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "i2v-steering"
html_show_sphinx = False
html_copy_source = False
templates_path = []

# Nothing is executed, and no page loads a script from the network.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_render_markdown_format = "gfm"
nb_number_source_lines = False
myst_enable_extensions = ["colon_fence", "deflist"]  # no dollar maths: it would need MathJax
myst_heading_anchors = 3
myst_links_external_new_tab = False
myst_url_schemes = ("http", "https", "mailto")

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
add_module_names = False
toc_object_entries_show_parents = "hide"
suppress_warnings = ["config.cache"]


def setup(app):
    app.connect("autodoc-process-docstring", docstrings.to_rst)

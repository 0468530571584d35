"""Configuration of the documentation; `make docs` builds it."""

import logging
import warnings

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

# The gallery looks up every name of the examples, which needs this switch.
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

from sklstm import __version__

project = "sklstm"
author = "The sklstm developers"
copyright = "The sklstm developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_docstring_signature = False
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(demo|service)\.py$",
    "doc_module": ("sklstm",),
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "abort_on_example_error": True,
}
# sktime 1.2 warns whenever a forecaster is made, and undoes warning filters.
logging.captureWarnings(True)
logging.getLogger("py.warnings").addHandler(logging.NullHandler())
logging.getLogger("py.warnings").propagate = False
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

html_theme = "pydata_sphinx_theme"
html_title = "sklstm"
html_static_path = ["_static"]
html_css_files = ["sklstm.css"]
html_show_sourcelink = False
# Pages without neighbours in their section need no list of them.
ALONE = [
    "index", "install", "quickstart", "how_it_works", "benchmarks", "faq", "comparison",
    "design", "changelog", "contributing", "zh",
]  # fmt: skip
html_sidebars = {page: [] for page in ALONE}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}


def visit_math(self, node):
    """Write an equation as MathML, which needs no script from elsewhere."""
    as_block = isinstance(node, nodes.math_block)
    self.body.append(tex2mathml(node.astext(), as_block=as_block))
    raise nodes.SkipNode


def setup(app):
    """Register the equations."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))


html_math_renderer = "mathml"

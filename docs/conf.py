"""Settings of the documentation site: Sphinx with MyST. Build it with ``make docs``."""

from importlib.metadata import version as installed_version

project = "landcover"
author = "the landcover developers"
copyright = "the landcover developers, Apache-2.0"
release = version = installed_version("landcover")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
root_doc = "index"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes_action = "qe"  # no dashes: --data stays as it is typed
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "landcover"
html_static_path = ["_static"]
html_css_files = ["landcover.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "landcover"},
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "use_edit_page_button": False,
}
# Nothing is fetched from elsewhere: the site works from a folder, without a network.
html_js_files: list[str] = []

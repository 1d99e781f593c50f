"""Sphinx settings; ``make docs`` builds into ``docs/_build/html`` with warnings as errors."""

import logging

import wmgym

logging.getLogger("OpenGL").setLevel(logging.WARNING)  # it announces itself where modules are imported

project = "wmgym"
author = "wmgym contributors"
copyright = "wmgym contributors"
release = version = wmgym.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"wmgym {release}"
html_static_path = ["_static"]
html_css_files = ["wmgym.css"]
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}  # there is no place to view or edit the source at

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # a list, not a description of each
napoleon_use_rtype = False

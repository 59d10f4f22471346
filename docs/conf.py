"""How Sphinx makes a site of this folder: `make docs`.

Pages are Markdown that GitHub shows as well: links go to files, and headings have the anchors that
GitHub gives them. What is made of docstrings and commands is read without TVM or PyTorch.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "site"))

project = "prefilltune"
release = importlib.metadata.version(project)
copyright = "its contributors"
exclude_patterns = ["measurements/**", "pictures/**", "site/**"]
nitpicky = True
#: Types in docstrings are in words, or of other packages; errors may be of another module.
nitpick_ignore_regex = [("py:class", r"(?!prefilltune\.).*"), ("py:exc", r"\w+")]

extensions = [
    "command_line",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch", "transformers", "tvm", "tvm_ffi"]
autodoc_typehints = "none"
default_role = "code"
smartquotes_action = "D"
napoleon_google_docstring = False

pygments_style = "default"
pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = f"prefilltune {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_extra_path = ["../build/report/report.html"]
templates_path = ["site/templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "every-case.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0757b3", "color-brand-content": "#0757b3"},
    "dark_css_variables": {"color-brand-primary": "#6cb0ff", "color-brand-content": "#6cb0ff"},
}
copybutton_exclude = ".linenos, .gp, .go"

#: Pages that say what a file beside this folder does, and the file.
OF_THE_PROJECT = {"contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md"}


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("source-read", _include)


def _include(_: Any, page: str, source: list[str]) -> None:
    """Files of the project are pages here, and links to them lead to these."""
    if page in OF_THE_PROJECT:
        text = (HERE.parent / OF_THE_PROJECT[page]).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!https?:|#)", "](../", text)
        source[0] = text.replace("](../docs/", "](")
    for other, file in OF_THE_PROJECT.items():
        above = "../" * (page.count("/") + 1)
        source[0] = source[0].replace(f"]({above}{file}", f"](/{other}.md")

"""How Sphinx builds the documentation: offline, from the pages beside this file and Baton's docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Autodoc imports the models, and those want a project.
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_q", "baton"],
    Q_CLUSTER={"name": "docs", "orm": "default", "timeout": 60, "retry": 240},
    USE_TZ=True,
)
django.setup()

import baton  # noqa: E402 - after the project

project = "Baton"
author = "Baton contributors"
release = version = baton.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Nothing is fetched, so names of other libraries are not looked up. Baton's own must all be found.
nitpick_ignore_regex = [(r"py:.*", r"(?!baton\.).*")]

html_theme = "furo"
html_title = f"Baton {release}"
html_show_sourcelink = False

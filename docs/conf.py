# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Sphinx configuration for scripts/docs: the pages (MyST), and the docstrings of the Python API.

The source folder is the repository root, so that a page can link to the README or a launch file.
"""

from pathlib import Path
import sys
import xml.etree.ElementTree as ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = 'uncertainty_seg'
author = 'The uncertainty_seg authors'
project_copyright = '2026, ' + author
version = release = ElementTree.parse(ROOT / 'package.xml').findtext('version') or ''

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'numpydoc']
include_patterns = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.rst', 'docs/**']
exclude_patterns = ['docs/**/*.py']
root_doc = 'docs/site/index'
source_suffix = {'.md': 'markdown', '.rst': 'restructuredtext'}

myst_heading_anchors = 4  # the same heading anchors as on GitHub
suppress_warnings = ['myst.header']  # pages may start with a heading of any level
autodoc_mock_imports = ['rclpy', 'tensorrt']
autodoc_typehints = 'none'  # numpydoc sections give types with shape and unit
numpydoc_show_class_members = False

html_theme = 'furo'
html_title = f'uncertainty_seg {version}'

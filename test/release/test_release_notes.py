# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""ROS's release tools can read CHANGELOG.rst, and it starts with a summary for users."""

from datetime import date
from pathlib import Path
import re
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
VERSION = ElementTree.parse(ROOT / 'package.xml').getroot().findtext('version')


def section(version: str) -> str:
    """Return the text below the heading of a version."""
    _, _, rest = TEXT.partition(f'\n{version} (')
    assert rest, f'no section of {version}'
    return re.split(r'\n\S[^\n]*\n-{5,}\n', rest.split('\n', 2)[2])[0]


def test_the_release_tools_find_the_version_of_the_manifest_its_date_and_its_list() -> None:
    # The parser of catkin_prepare_release and bloom; a heading without a date is not a version.
    changelog = pytest.importorskip('catkin_pkg.changelog', reason='catkin_pkg is not installed')
    read = changelog.get_changelog_from_path(str(ROOT / 'CHANGELOG.rst'))
    versions = [(version, day) for version, day, _ in read.foreach_version()]
    assert versions[-1][0] == VERSION
    assert versions[-1][1].date() <= date.today()
    contents = read.get_content_of_version(VERSION)
    lists = [part for part in contents if type(part).__name__ == 'BulletList']
    assert len(lists) == 1
    # The parser finds every entry of the file; none is lost to a markup error.
    assert len(lists[0].bullets) == len(re.findall(r'^\* ', section(VERSION), re.MULTILINE)) > 40
    assert [type(part).__name__ for part in contents][0] == 'MixedText'

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The security page names tests that exist, and the workflow runs nothing that can change."""

from __future__ import annotations

from pathlib import Path
import re
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
PAGE = ROOT / 'docs' / 'security.md'
PINNED = re.compile(r'uses: [\w./-]+@[0-9a-f]{40}  # v\d+(\.\d+){1,2}$')


def rows() -> list[list[str]]:
    """Return the cells of the table of threats."""
    table = PAGE.read_text(encoding='utf-8').split('| threat |')[1].split('\n\n')[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


def test_every_threat_has_a_defence_and_a_test_that_exists() -> None:
    assert len(rows()) >= 10
    for threat, defence, proofs in rows():
        assert threat and defence
        named = re.findall(r'`([^`]+)`', proofs)
        assert named, f'{threat}: no test'
        for name in named:
            assert len(list((ROOT / 'test').rglob(name))) == 1, name


def test_every_action_of_the_workflow_is_pinned_by_hash_with_its_version() -> None:
    used = [line.strip().removeprefix('- ') for file in WORKFLOWS
            for line in file.read_text(encoding='utf-8').splitlines() if 'uses:' in line]
    assert len(used) >= 6
    assert [line for line in used if not PINNED.match(line)] == []


@pytest.mark.parametrize('file', WORKFLOWS, ids=lambda file: file.name)
def test_the_workflow_may_read_the_sources_and_nothing_else(file: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(file.read_text(encoding='utf-8'))
    assert workflow['permissions'] == {'contents': 'read'}
    for job in workflow['jobs'].values():
        assert 'permissions' not in job
        for step in job['steps']:
            if 'checkout' in step.get('uses', ''):
                assert step['with']['persist-credentials'] is False

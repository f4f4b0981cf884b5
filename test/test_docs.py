# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the pages say exists: links, verbs, launch arguments, figures of the cards."""

import argparse
from pathlib import Path
import re

import pytest

from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools import compile_net
from uncertainty_seg.tools.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')])
README = (ROOT / 'README.md').read_text()


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', page.read_text())
    dead = [link for link in links if '://' not in link and not (page.parent / link).exists()]
    assert dead == []


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_no_placeholder_is_left(page: Path) -> None:
    assert re.findall(r'@[A-Z_]+@|TODO|FIXME', page.read_text()) == []


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_verb_that_is_shown_exists(page: Path) -> None:
    shown = re.findall(r'^ +uncertainty_seg ([a-z-]+)', page.read_text(), re.MULTILINE)
    assert set(shown) <= set(VERBS)


def test_every_option_of_compile_that_is_shown_exists() -> None:
    parser = argparse.ArgumentParser()
    compile_net.add_arguments(parser)
    known = {word for action in parser._actions for word in action.option_strings}
    page = (ROOT / 'docs' / 'compile.md').read_text()
    shown = set(re.findall(r'(?<![\w-])--[a-z][a-z-]+', page)) - {'--data'}  # of calibrate
    assert {'--weights', '--skip-dropped'} <= shown <= known


def test_the_launch_table_is_that_of_the_launch_file() -> None:
    table = README.split('| launch argument |')[1].split('\n\n')[0]
    listed = re.findall(r'^\| `(\w+)`', table, re.MULTILINE)
    code = (ROOT / 'launch' / 'uncertainty_seg.launch.py').read_text()
    declared = re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'", code)
    assert sorted(listed) == sorted(declared)


@pytest.mark.parametrize('name, column', [('pipeline', 1), ('suim', 2)])
def test_the_figures_of_the_models_are_those_of_their_cards(name: str, column: int) -> None:
    metrics = load_bundle(name).card.metrics
    rows = {
        'mIoU': metrics['val_mean_iou'], 'ECE': metrics['val_ece'],
        'AUROC': metrics['val_error_auroc_entropy'],
    }
    for page in (README, (ROOT / 'docs' / 'models.md').read_text()):
        for word, value in rows.items():
            line = next(n for n in page.splitlines()
                        if n.startswith('|') and word in n.split('|')[1] and 'training' not in n)
            assert f'{value:.3f}' in line.split('|')[column + 1], line

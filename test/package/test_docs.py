# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the pages say exists: links, verbs, launch arguments, figures of the cards."""

import argparse
from pathlib import Path
import re

import pytest

from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools import calibrate_gate, compile_net, evaluate_bundle
from uncertainty_seg.tools.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
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


def test_every_option_of_calibrate_and_evaluate_is_on_their_page() -> None:
    known = set()
    for verb in (calibrate_gate, evaluate_bundle):
        parser = argparse.ArgumentParser(add_help=False)
        verb.add_arguments(parser)
        known |= {word for action in parser._actions for word in action.option_strings}
    page = (ROOT / 'docs' / 'calibration.md').read_text()
    assert set(re.findall(r'(?<![\w-])--[a-z][a-z-]+', page)) == known


@pytest.mark.parametrize('name', ['suim', 'pipeline'])
def test_the_promises_on_the_page_are_those_that_ship(name: str) -> None:
    calibration = load_bundle(name).calibration
    assert calibration is not None
    page = (ROOT / 'docs' / 'calibration.md').read_text()
    start = page.index('| | `suim`, 0.05')
    heads, *rows = (line.split('|')[1:-1] for line in page[start:].split('\n\n')[0].splitlines())
    table = {row[0].strip(): row for row in rows}
    for promise in calibration.promises:
        column = [head.strip() for head in heads].index(f'`{name}`, {promise.alpha:.2f}')
        for word, text in (
            ('frames the limits were fitted on', f'{promise.num_frames}'),
            ('accepted', f'{promise.accepted:.0%}'.replace('%', ' %')),
            ('accepted and bad (fitted)', f'{promise.accepted_and_bad:.1%}'.replace('%', ' %')),
            ('bad among accepted, upper bound', f'{promise.bad_if_accepted_upper:.2f}'),
        ):
            assert table[word][column].strip() == text


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

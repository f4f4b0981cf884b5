# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Links, verbs, launch arguments and card figures in the pages exist and are current."""

from pathlib import Path
import re
import runpy
from typing import Any

import pytest
from ruamel.yaml import YAML

from uncertainty_seg.cli.main import VERBS
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.storage.model_bundle import load_bundle

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])
README = (ROOT / 'README.md').read_text()


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', page.read_text())
    dead = [link for link in links if '://' not in link and not (page.parent / link).exists()]
    assert dead == []


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_verb_that_is_shown_exists(page: Path) -> None:
    shown = re.findall(r'^ +uncertainty_seg ([a-z][a-z-]*)', page.read_text(), re.MULTILINE)
    assert set(shown) <= set(VERBS)


@pytest.mark.parametrize('name', ['suim', 'pipeline'])
def test_the_promises_on_the_page_are_those_that_ship(name: str) -> None:
    calibration = load_bundle(name).calibration
    assert calibration is not None
    page = (ROOT / 'docs' / 'guides' / 'calibration.md').read_text()
    start = page.index('| | `suim`, 0.05')
    heads, *rows = (line.split('|')[1:-1] for line in page[start:].split('\n\n')[0].splitlines())
    table = {row[0].strip(): row for row in rows}
    for promise in calibration.promises:
        column = [head.strip() for head in heads].index(f'`{name}`, {promise.alpha:.2f}')
        for word, text in (
            ('frames the thresholds were fitted on', f'{promise.num_frames}'),
            ('accepted', f'{promise.accepted:.0%}'.replace('%', ' %')),
            ('accepted and bad', f'{promise.accepted_and_bad:.1%}'.replace('%', ' %')),
            ('bad among accepted, upper bound', f'{promise.bad_if_accepted_upper:.2f}'),
        ):
            assert table[word][column].strip() == text


def test_what_the_pages_list_is_what_the_code_has() -> None:
    made = runpy.run_path(str(ROOT / 'docs' / 'make_reference.py'))['made']()
    stale = [path for path, text in made.items() if (ROOT / path).read_text() != text]
    assert stale == [], 'run python docs/make_reference.py'
    blocks = [name for text in made.values()
              for name in re.findall(r'made by docs/make_reference.py: (\w+)', text)]
    assert len(set(blocks)) == len(blocks) == 7


def test_the_parameter_file_holds_every_default() -> None:
    text = (ROOT / 'config' / 'uncertainty_seg.yaml').read_text()
    values = flat(YAML(typ='safe').load(text)['/**']['ros__parameters'])
    for name in ('cameras', 'gate.scores', 'trusted_keys'):
        values[name] = [word for word in values[name] if word]
    assert settings_from_dict(values) == Settings()


def flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {
            f'{prefix}{name}': value}
    return found


def test_the_topics_of_the_pages_are_those_that_the_node_publishes() -> None:
    code = '\n'.join(path.read_text() for path in (ROOT / 'uncertainty_seg' / 'ros').glob('*.py'))
    kinds = code.split('\nPICTURES: ')[1].split('\n}')[0]
    made = {'flagged', 'camera_info', 'overlay/compressed'}
    for text, pattern in ((code, r"output_topic\('(\w+)'"), (code, r"TOPIC = '~/(\w+)'"),
                          (kinds, r"\n    '(\w+)': ")):
        made |= set(re.findall(pattern, text))
    for page in (README, (ROOT / 'docs' / 'reference' / 'ros.md').read_text()):
        table = page.split('| topic | type |')[1].split('\n\n')[0]
        cells = ' '.join(row.split('|')[1] for row in table.splitlines()[1:])
        named = set(re.findall(r'`~/([\w/]+)`', cells))
        assert named <= made and (page == README or named == made)


def test_the_launch_table_is_that_of_the_launch_file() -> None:
    page = (ROOT / 'docs' / 'reference' / 'ros.md').read_text()
    table = page.split('| launch argument |')[1].split('\n\n')[0]
    listed = re.findall(r'^\| `(\w+)`', table, re.MULTILINE)
    code = (ROOT / 'launch' / 'uncertainty_seg.launch.py').read_text()
    declared = re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'", code)
    assert sorted(listed) == sorted(declared)


@pytest.mark.parametrize('name, column', [('pipeline', 1), ('suim', 2)])
def test_the_figures_of_the_models_are_those_of_their_cards(name: str, column: int) -> None:
    metrics = load_bundle(name).card.metrics
    rows = {
        'mIoU': metrics['mean_iou'], 'ECE': metrics['ece'],
        'AUROC': metrics['error_auroc_least_confidence'],
    }
    for page in (README, (ROOT / 'docs' / 'reference' / 'models.md').read_text()):
        for word, value in rows.items():
            line = next(n for n in page.splitlines()
                        if n.startswith('|') and word in n.split('|')[1] and 'training' not in n)
            assert f'{value:.3f}' in line.split('|')[column + 1], line


ROOMS = sorted(path.name for path in (ROOT / 'uncertainty_seg').iterdir()
               if path.is_dir() and path.name != '__pycache__')
# Files of baal, torch-uncertainty and cv_bridge, and one that a reader creates.
FOREIGN = {'active/heuristics/heuristics.py', 'ood_criteria.py', 'core.py', 'my_mission.py'}


def missing_files(text: str) -> list[str]:
    """Return the paths of Python files in a text that do not exist in the repository."""
    named = re.findall(r'(?<![\w/.*-])((?:\w+/)*\w+\.py)\b(?!:)', text)
    known = [path.relative_to(ROOT).as_posix() for folder in
             ('uncertainty_seg', 'test', 'benchmarks', 'docs', 'launch', 'examples')
             for path in (ROOT / folder).rglob('*.py')]
    return [name for name in named if name not in FOREIGN and not (ROOT / name).exists()
            and not any(path.endswith('/' + name) for path in known)]


def missing_names(text: str) -> list[str]:
    """Return the dotted names of modules, or of their attributes, that do not exist."""
    rooms = '|'.join(ROOMS)
    named = re.findall(rf'(?:\buncertainty_seg\.|`)((?:{rooms})(?:\.\w+)+)', text)
    return [name for name in named
            if not name.endswith(('.py', '.json')) and not _is_there(name.split('.'))]


def _is_there(words: list[str]) -> bool:
    place = ROOT / 'uncertainty_seg'
    while words and (place / words[0]).is_dir():
        place /= words.pop(0)
    if not words:
        return True
    module = place / f'{words[0]}.py'
    # The part after the module must be a name that it defines.
    return module.exists() and all(
        re.search(rf'^(?:def|class) {word}\b|^{word} =', module.read_text(), re.MULTILINE)
        for word in words[1:2])


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_file_and_module_that_is_named_exists(page: Path) -> None:
    # A figure may come from a program that no longer exists; its row then names the commit.
    text = re.sub(r'`[^`]*` at [0-9a-f]{7}', '', page.read_text())
    assert missing_files(text) + missing_names(text) == []


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_every_anchor_is_a_heading(page: Path) -> None:
    for path, anchor in re.findall(r'\]\(([^):]*)#([^)]+)\)', page.read_text()):
        target = (page.parent / path) if path else page
        heads = re.findall(r'^#+ (.+)$', target.read_text(), re.MULTILINE)
        # GitHub's anchors: lower case, without punctuation, spaces as hyphens.
        slugs = {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}
        assert anchor in slugs, f'{path}#{anchor}'


def test_the_index_names_every_page() -> None:
    index = (ROOT / 'docs' / 'README.md').read_text()
    names = {page.relative_to(ROOT / 'docs').as_posix() for page in PAGES
             if ROOT / 'docs' in page.parents} - {'README.md'}
    assert {name for name in names if f']({name}' not in index} == set()

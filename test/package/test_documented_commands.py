# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every command on a page is run on small data, in the order of the page.

`docs_stage` has the files behind the placeholders of the pages. Option values that would take
minutes are overridden (`SMALLER`); the options stay those of the page. Commands that cannot run
here are only parsed, with the reason (`PARSED_ONLY`).
"""

from collections.abc import Iterator
from glob import glob
import os
from pathlib import Path
import re
import shlex
import shutil

from docs_stage import enter, make_stage
import pytest

from uncertainty_seg.cli.main import build_parser, main, VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])

# Verb -> options that override those of the page with smaller values.
ONE_THREAD = '--set backend=onnxruntime --set threads=1'
SMALLER = {
    'simulate dive': '--duration 2 --rate 2 --size 64x48',
    'demo': '--duration 4 --rate 2 --size 64x48 --no-check --out demo',
    'simulate scenes': '--count 4 --ood 2 --size 64x48',
    'compile': '--input 16x8 -o compiled --compare-passes 16',
    'calibrate': ONE_THREAD, 'evaluate': ONE_THREAD,
    'self-check': '--set backend=onnxruntime --frames 1 --runs 4',
    'select': '-n 2', 'browse': '--most 4 --force', 'labels import': '--accept-unchanged',
}
# (Pattern of a command, reason why it is only parsed).
PARSED_ONLY = (
    (r'^self-check .*(backend=tensorrt|--compute-capability)', 'needs TensorRT'),
    (r'^demo(?!.*--offline)', 'needs ROS and minutes: scripts/demo runs it, and test_live_replay'),
    (r'^active-learn ', 'trains networks for hours: test_active_learning runs it'),
    (r'^train ', 'needs torch and hours'),
    (r'--ray', 'needs a cluster: test_scoring runs one'),
    (r'--serve', 'serves until it is stopped: test_browse does'),
)
# Verb -> package without which it cannot run here.
PACKAGES = {'calibrate': 'scipy', 'evaluate': 'scipy', 'score': 'pyarrow', 'select': 'pyarrow',
            'browse': 'pyarrow', 'labels': 'pycocotools'}
# Outputs of commands, removed before each run, since a reader would use a new name.
OUTPUTS = ('OUT', 'OUT_BAG', 'VARIANT', 'BAG', 'TABLE_OUT', 'demo')
WORDS = {'NET': 'NET.onnx', 'LABELS': 'EXPORT', 'NAME': 'dive_1', 'N': '2', 'TABLE': 'TABLE',
         'FOLDER': 'OTHER', 'IMAGES': 'DATA/images', 'PORT': '0'}


def lines_of(page: Path) -> Iterator[str]:
    """Yield the lines of code blocks, with continuation lines joined and comments removed."""
    text = page.read_text(encoding='utf-8')
    text = re.sub(r'^```python\n.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
    is_fenced, joined = False, ''
    for line in text.splitlines():
        if line.startswith('```'):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith('    '):
            joined = f'{joined} {line.strip()}'.strip()
            if joined.endswith('\\'):
                joined = joined[:-1].rstrip()
                continue
            yield re.split(r'\s{2,}|\s#\s', joined)[0]
            joined = ''


def verbs_of(page: Path) -> list[str]:
    """Return the arguments of the program in each command of a page."""
    found = []
    for line in lines_of(page):
        for match in re.finditer(r'(?<![\w.-])uncertainty_seg (?=[a-z-]+)(.*)', line):
            # The first command of a shell line; for a loop, its first iteration.
            words = re.split(r' && |;', match[1])[0].replace('$i', '1').strip().rstrip("'")
            if words.split()[0].rstrip(',') in (*VERBS, '--help', '--version'):
                found.append(words)
    return found


def example(synopsis: str) -> list[str]:
    """Return one command of a synopsis: with all optional parts, the first of alternatives."""
    text = re.sub(r' (?:\| [^\]]*|> \S+$)', '', synopsis).replace('[', '').replace(']', '')
    words = [word.removesuffix('...') for word in shlex.split(text)]
    words = [word.split('|')[0] if re.fullmatch(r'[\w-]+(\|[\w-]+)+', word) else word
             for word in words]
    return [WORDS.get(word, word) for word in words if word]


def reason_to_parse(words: list[str]) -> str:
    text = ' '.join(words) + ' '
    return next((why for pattern, why in PARSED_ONLY if re.search(pattern, text)), '')


def is_list(words: str) -> bool:
    """Return whether the text is a list of verbs, such as 'simulate, train', not a command."""
    return bool(re.fullmatch(r'[a-z-]+(, [a-z-]+)+', words))


# Each command needs the one before; test_walks and test_tutorial_loop run these pages as a whole.
WALKS = ('your_network.md', 'loop.md')
PAGES_WITH_COMMANDS = [page for page in PAGES if verbs_of(page) and page.name not in WALKS]


@pytest.fixture(scope='module')
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('pages')
    make_stage(folder)
    return folder


def linked(source: str, target: str) -> None:
    """Copy a file; images, which no command changes, are hard-linked, since there are 3000."""
    (os.link if source.endswith('.png') else shutil.copy2)(source, target)


@pytest.fixture
def here(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / 'page'
    shutil.copytree(stage, folder, copy_function=linked)
    enter(folder, monkeypatch)
    return folder


def prepare(words: list[str], folder: Path) -> None:
    """Create the files that a command of a synopsis needs from an earlier verb."""
    for option, name in zip(['', *words], words, strict=False):
        is_written = name in OUTPUTS and words[0] != 'calibrate'
        if is_written or (words[0] == 'select' and option in ('-o', '--out')):
            shutil.rmtree(folder / name, ignore_errors=True)
    takes_table = 'TABLE' in words and words[0] in ('select', 'browse')
    if takes_table or any('tables/*' in word for word in words):
        if not (folder / 'tables').exists():
            assert main(['score', 'IN_BAG', '--out', 'TABLE', '--set', 'model=pipeline']) == 0
            shutil.copytree(folder / 'TABLE', folder / 'tables' / 'one')
    if 'EXPORT' in words and not (folder / 'EXPORT').exists():
        assert main(['labels', 'export', 'LOG', 'EXPORT', '--format', 'coco']) == 0
    if '--like' in words:  # it carries over an existing promise
        like = words[words.index('--like') + 1]
        assert main(['calibrate', like, '--train', 'train', '--val', 'val', '--limits', 'limits',
                     '--bad', 'accuracy<0.6', *shlex.split(SMALLER['calibrate'])]) == 0
    if words[0] == 'compile':
        for seed, name in enumerate(('w.pt', 'a.pt', 'b.pt', 'c.pt')):
            if name in words:
                torch = pytest.importorskip('torch')
                from my_pkg import nets

                net = getattr(nets, words[1].partition(':')[2] or 'build')()
                torch.manual_seed(seed)
                torch.nn.init.normal_(net[0].weight, std=0.3)
                torch.save(net.state_dict(), name)


def smaller(words: list[str]) -> list[str]:
    """Return the command with small values, and with arguments that the page omits by '...'."""
    verb = words[0]
    words = [word for part in words for word in (glob(part) if '*' in part else [part])]
    if verb == 'compile' and not words[1].endswith('.onnx') and ':' not in words[1]:
        return words  # compiles a variant of a bundle or signs it
    if verb == 'compile':
        words += [] if '--classes' in words else ['--classes', 'classes.yaml']
    if words[:2] == ['simulate', 'scenes']:
        words[2] += '_rendered'  # its classes are not those of the tiny network
    if '--like' in words:
        return words + shlex.split(f'{ONE_THREAD} --error 0.1')
    return words + shlex.split(SMALLER.get(' '.join(words[:2]), SMALLER.get(verb, '')))


@pytest.mark.release
@pytest.mark.parametrize('page', PAGES_WITH_COMMANDS, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(
    page: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in verbs_of(page):
        if is_list(command):
            assert set(command.split(', ')) <= set(VERBS)
            continue
        words = example(command)
        if words[0].startswith('--') or reason_to_parse(words):
            parsed_by_its_verb(words)
            continue
        pytest.importorskip(PACKAGES.get(words[0], 'numpy'))
        if any(word.startswith('my_pkg.nets:') for word in words):
            pytest.importorskip('torch')
        if is_run_already(words):
            parsed_by_its_verb(words)
            continue
        prepare(words, here)
        code = main(smaller(words))
        said = capsys.readouterr()
        assert code == 0, f'{command}: {said.err[-500:]}'


_RUN: set[tuple[str | bool, ...]] = set()


def is_run_already(words: list[str]) -> bool:
    """Return whether this verb ran with these kinds of folders; a repeat would be equal."""
    key = words[0], *(option in words for option in ('--data', '--like'))
    is_known = words[0] in ('calibrate', 'evaluate') and key in _RUN
    _RUN.add(key)
    return is_known


def parsed_by_its_verb(words: list[str]) -> None:
    try:
        build_parser(words[0]).parse_args(words)
    except SystemExit as end:  # raised by --help
        assert not end.code, words


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_its_verb_takes(page: Path) -> None:
    for command in verbs_of(page):
        if not is_list(command):
            parsed_by_its_verb(example(command))


def test_every_verb_is_shown_somewhere() -> None:
    shown = {text.split()[0] for page in PAGES for text in verbs_of(page) if not is_list(text)}
    assert set(VERBS) <= shown


def commands_that_start_with(start: str) -> list[str]:
    return [line for page in PAGES for line in lines_of(page) if re.match(start, line)]


def test_ros2_commands_name_what_is_installed() -> None:
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    executables = set(re.findall(r"'(\w+) = uncertainty_seg\.", setup))
    for line in commands_that_start_with(r'ros2 run uncertainty_seg '):
        assert line.split()[3] in executables, line
    launches = commands_that_start_with(r'ros2 launch uncertainty_seg ')
    assert len(launches) > 3
    for line in launches:
        _, _, _, file, *arguments = line.split()
        code = (ROOT / 'launch' / file).read_text(encoding='utf-8')
        declared = set(re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'", code))
        assert {word.partition(':=')[0] for word in arguments} <= declared, line


def test_scripts_and_installations_name_files_and_extras_that_exist() -> None:
    for line in commands_that_start_with(r'scripts/'):
        assert (ROOT / line.split()[0]).stat().st_mode & 0o111, line
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    for line in commands_that_start_with(r'(python3? -m )?pip install '):
        for name in re.findall(r'-r (\S+)', line):
            assert (ROOT / name).is_file(), line
        for extra in re.findall(r"'\.\[([\w,]+)\]'", line):
            assert all(f"'{name}':" in setup for name in extra.split(',')), line


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_no_page_installs_this_package_from_an_index(page: Path) -> None:
    # The package's name is not registered on PyPI.
    assert re.findall(r'pip install [^`\n]*\buncertainty[_-]seg\b(?!/)',
                      page.read_text(encoding='utf-8')) == []

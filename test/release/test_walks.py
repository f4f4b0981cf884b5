# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The walkthroughs of the documentation run in a shell that cannot see the checkout.

The commands of a section are run as one script in a new home folder, with the package installed by
pip or colcon. Verbs get options that reduce the amount of work (`SMALLER`). Commands that the page
marks as `not run` are skipped; their reasons must be in `REASONS`.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
import json
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
from ros_helpers import HAS_ROS, own_domain, ros_environment

from uncertainty_seg.cli.main import build_parser, VERBS
from uncertainty_seg.storage.bags.reader import BagMessage, BagReader

ROOT = Path(__file__).resolve().parents[2]
# Walkthrough -> its page and section.
WALKED = {
    'First dive': ('start/first_dive.md', 'Step by step'),
    'Your own network': ('start/your_network.md', 'Your own network'),
    'Calibrate for your water': ('start/your_network.md', 'Calibrate for your water'),
    'On a Jetson': ('guides/gpu.md', 'Step by step'),
    'Write mission logic': ('guides/mission.md', 'Write mission logic'),
}

# Verb -> options appended to those of the page, which they override.
SMALLER = {
    'simulate dive': '--duration 6 --rate 4 --size 160x120',
    'simulate scenes': '--size 64x48',
    'train': '--set epochs=2 --set size=64x64 --threads 1',
    'compile': '--input 64x64',
    'self-check': '--frames 1 --runs 4',
    'calibrate': '--set threads=1 --alpha 0.2 --bad accuracy<0.6',
}
# Walkthrough -> its own `SMALLER`; here the included network needs larger scenes to be right.
IN_WALK = {'Calibrate for your water': {
    'simulate dive': '--duration 6 --rate 4 --size 320x240',
    'simulate scenes': '--size 320x240',
    'calibrate': '--set threads=1 --alpha 0.2',
    'evaluate': '--set threads=1',
}}
# Scenes on the page -> in the test. Risk 0.2 needs 4 blocks, and half as many to tune on; the
# density needs 60 training frames, from nine tenths of the scenes.
SCENES = {'400': '72', '100': '76', '60': '20'}
NOT_RUN = re.compile(r'\s+# not run: (.+)$')
REASONS = {
    'needs a Jetson': r'sudo ',
    'needs an NVIDIA GPU': r'uncertainty_seg .*backend=tensorrt',
}
# Everything that setup.py reads for an installation.
PACKAGED = ('uncertainty_seg', 'launch', 'config', 'examples', 'resource', 'scripts', 'setup.py',
            'setup.cfg', 'pyproject.toml', 'package.xml', 'MANIFEST.in')
COLCON = ('import sys; from colcon_core.command import main; sys.argv[0] = "colcon"; '
          'sys.exit(main())')


@dataclass(frozen=True)
class Walk:
    """One section of a page."""

    name: str = ''
    commands: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    python: str = ''


def section(page: str, heading: str) -> str:
    """Return the text below a heading of a page, up to the next heading."""
    text = (ROOT / 'docs' / page).read_text(encoding='utf-8')
    found = re.split(rf'^#+ {re.escape(heading)}$', text, flags=re.MULTILINE)
    assert len(found) == 2, f'{page}: {heading}'
    return re.split(r'^##', found[1], flags=re.MULTILINE)[0]


def walk_of(name: str, text: str) -> Walk:
    lines = [line[4:] for line in text.splitlines() if line.startswith('    ')]
    fenced = re.search(r'^```python\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    if fenced:
        lines = [line for line in lines if f'    {line}\n' not in fenced[1]]
    marked = {NOT_RUN.sub('', line): match[1]
              for line in lines if (match := NOT_RUN.search(line))}
    return Walk(name, [line for line in lines if not NOT_RUN.search(line)],
                marked, fenced[1] if fenced else '')


WALKS = {name: walk_of(name, section(*place)) for name, place in WALKED.items()}


def environment_in(folder: Path) -> Path:
    """Create an environment with all packages of this one, but without the checkout."""
    venv.create(folder, symlinks=True)
    place = sysconfig.get_path('purelib', 'posix_prefix', vars={'base': str(folder)})
    seen = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
    Path(place, 'beside.pth').write_text(
        ''.join(f'import site; site.addsitedir({path!r})\n' for path in seen))
    return folder


def run_in(environment: Path, *words: str) -> None:
    """Run the environment's Python without the checkout on its path."""
    done = subprocess.run(
        [str(environment / 'bin' / 'python'), *words], cwd=environment, env=outside(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def outside(**more: str) -> dict[str, str]:
    """Return a user's environment: without the checkout and the variables of the ROS wheels."""
    paths = [path for path in os.environ.get('PYTHONPATH', '').split(os.pathsep)
             if path and Path(path) != ROOT]
    kept = {name: value for name, value in os.environ.items()
            if name not in ('_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'PYTHONPATH')}
    return {**kept, **({'PYTHONPATH': os.pathsep.join(paths)} if paths else {}), **more}


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install copies of the checkout; return pip or colcon -> the shell line that activates it."""
    folder = tmp_path_factory.mktemp('install')
    for name in PACKAGED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / 'source' / name)
    pip, colcon = (environment_in(folder / name) for name in ('pip', 'colcon'))
    run_in(pip, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
           '--no-build-isolation', str(folder / 'source'))
    run_in(colcon, '-c', COLCON, '--log-base', str(folder / 'log'), 'build', '--base-paths',
           str(folder / 'source'), '--build-base', str(folder / 'build'), '--install-base',
           str(folder / 'prefix'))
    return {'pip': f'. {pip}/bin/activate', 'colcon':
            f'. {colcon}/bin/activate; set +u; . {folder}/prefix/setup.bash; set -u'}


def home(folder: Path, walk: Walk) -> Path:
    """Create a home folder with a link to the clone and the Python file of the page."""
    folder.mkdir()
    (folder / 'uncertainty_seg').symlink_to(ROOT)
    (folder / 'my_nets.py').write_text(walk.python)
    return folder


def smaller(walk: Walk) -> str:
    """Return the commands of a walkthrough, the verbs with the options that reduce work."""
    options = {**SMALLER, **IN_WALK.get(walk.name, {})}

    def less(match: re.Match[str]) -> str:
        words = match[1].split()
        if words[:2] == ['simulate', 'scenes']:
            words = [SCENES.get(word, word) for word in words]
        more = options.get(' '.join(words[:2]), options.get(words[0], ''))
        return f"uncertainty_seg {' '.join(words)} {shlex.join(more.split())} "

    lines = '\n'.join(walk.commands).replace('\\\n', ' ')
    return re.sub(r'(?<!/)\buncertainty_seg ([^#&\n]*)', less, lines)


def walk_it(walk: Walk, folder: Path, install: str) -> subprocess.CompletedProcess[str]:
    """Run a section as one bash script, which ends at the first command that fails."""
    # Kills background processes when a command fails; timeout kills all and exits with 124.
    end = "trap 'kill $(jobs -p) 2>/dev/null || :' EXIT"
    script = '\n'.join(['set -eu', end, 'cd', install, smaller(walk)])
    with own_domain() as domain:
        local = {name: value for name, value in ros_environment(domain).items()
                 if name.startswith('ROS_')}
        return subprocess.run(
            ['timeout', '570', 'bash', '-c', script], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=outside(
                **local, HOME=str(folder), PATH='/usr/bin:/bin', OMP_NUM_THREADS='1',
                PYTHONUNBUFFERED='1', XDG_CACHE_HOME=f'{folder}/cache'))


INCLUDED = ROOT / 'config' / 'models' / 'pipeline' / 'calibration.json'
# Walkthrough -> files that must exist afterwards, and texts that the output must contain.
LEAVES = {
    'First dive': (['first_dive/seen/metadata.yaml', 'first_dive/chosen/contact_sheet.html'],
                   ['"num_frames": 24,', 'active', '"played": 24, "damaged": 0']),
    'Your own network': (['own_network/mine/calibration.json', 'own_network/calibration.html'],
                         ['"is_passed": true, "failed": []', 'active', '"played": 24,']),
    'Calibrate for your water': (['my_water/calibration.html', 'my_water/evaluation.html',
                                  'my_water/seen/metadata.yaml'], ['"num_frames": 24,']),
    'On a Jetson': ([], ['"is_passed": true, "failed": []']),
    'Write mission logic': (['mission/my_mission.py'],
                            [': limit ', '"played": 24, "damaged": 0']),
}
# Walkthrough -> installation; pip for the others.
INSTALLED_BY = {'First dive': 'colcon', 'Write mission logic': 'colcon'}
NEEDS = {'First dive': 'pyarrow', 'Your own network': 'torch',
         'Calibrate for your water': 'scipy'}


def has_new_limits(folder: Path, said: str) -> None:
    """Require new limits in the copy of the model, in the report, and in the flag."""
    mine = json.loads((folder / 'my_water' / 'mine' / 'calibration.json').read_text())
    old = json.loads(INCLUDED.read_text())
    assert mine['model_sha256'] == old['model_sha256']
    assert mine['data_sha256'] != old['data_sha256']
    promise, = mine['promises']
    assert promise['alpha'] == 0.2 and promise['accepted'] > 0.3
    assert promise['limits'] not in [each['limits'] for each in old['promises']]
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{')]
    fitted, = (line for line in lines if line.get('verb') == 'calibrate')
    assert fitted['promises'][0]['accepted'] == promise['accepted']
    report = (folder / 'my_water' / 'calibration.html').read_text()
    share = f"{100 * promise['accepted']:.1f}"
    assert re.search(rf'{share}\s%</strong><span>of frames accepted', report)
    judged, = (line for line in lines if 'no_promise' in line)
    assert judged['promise']['alpha'] == 0.2
    limits = {f'threshold.{name}': f'{limit:.6g}' for name, limit in promise['limits'].items()}
    with BagReader(folder / 'my_water' / 'seen') as bag:
        seen = [{pair.key: pair.value for pair in item.message.status[0].values}
                for item in bag.messages('/uncertainty_seg/status')
                if isinstance(item, BagMessage)]
    assert len(seen) == 24
    measured = [values for values in seen if 'passes' in values]  # a damaged frame is a fault
    for values in seen:
        assert {k: v for k, v in values.items() if k.startswith('threshold.')} == limits
        assert values in measured or values['confident'] == 'false'
    for values in measured:
        ratio = max(float(values[f'score.{name}']) / limit
                    for name, limit in promise['limits'].items())
        assert float(values['score_ratio']) == pytest.approx(ratio, rel=1e-4)
        assert ratio <= 1 or values['confident'] == 'false'
    # In so short a dive the flag is rarely true: most frames are among its first rise_frames.
    assert any(float(values['score_ratio']) <= 1 for values in measured)
    assert any(float(values['score_ratio']) > 1 for values in measured)


HOLDS = {'Calibrate for your water': has_new_limits}


# Each takes at most a minute on two idle cores.
@pytest.mark.timeout(600)
@pytest.mark.release
@pytest.mark.ros
@pytest.mark.parametrize('name', WALKS)
def test_a_walk_runs_from_another_folder_and_leaves_what_it_says(
    name: str, tmp_path: Path, installed: dict[str, str]
) -> None:
    package = NEEDS.get(name, 'numpy')
    if find_spec(package) is None:
        pytest.skip(f'{package} is not installed')
    walk = WALKS[name]
    if any(line.startswith('uncertainty_seg_node') for line in walk.commands) and not HAS_ROS:
        pytest.skip('rclpy is missing')
    before = INCLUDED.read_bytes()
    folder = home(tmp_path / 'home', walk)
    done = walk_it(walk, folder, installed[INSTALLED_BY.get(name, 'pip')])
    assert done.returncode == 0, done.stdout[-3000:]
    files, texts = LEAVES[name]
    assert [file for file in files if not (folder / file).exists()] == []
    assert [text for text in texts if text not in done.stdout] == [], done.stdout[-3000:]
    assert INCLUDED.read_bytes() == before
    if name in HOLDS:
        HOLDS[name](folder, done.stdout)


def test_a_walk_that_fails_in_the_middle_is_no_success(tmp_path: Path) -> None:
    walk = walk_of('x', '\n    sleep 900 &\n    touch ~/before\n    false\n    touch ~/reached\n')
    folder = home(tmp_path / 'home', walk)
    assert walk_it(walk, folder, '').returncode == 1
    assert (folder / 'before').exists() and not (folder / 'reached').exists()


def test_what_is_not_run_says_why_and_is_that() -> None:
    left_out = {command: why for walk in WALKS.values() for command, why in walk.left_out.items()}
    assert left_out
    for command, why in left_out.items():
        assert re.match(REASONS[why], command), f'{command}: {why}'
        match = re.match(r'uncertainty_seg (.*)', command)
        if match:
            words = match[1].split()
            build_parser(words[0]).parse_args(words)
    num_run = sum(len(walk.commands) for walk in WALKS.values())
    assert len(left_out) < num_run / 4


def test_every_table_of_this_file_is_of_the_walks() -> None:
    assert set(LEAVES) == set(WALKS)
    assert {*IN_WALK, *HOLDS, *NEEDS, *INSTALLED_BY} <= set(WALKS)
    assert {words.split()[0] for words in SMALLER} <= set(VERBS)

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The set-up of scripts/demo and scripts/test: what it says, retries, skips and never deletes.

Each test runs the real scripts/lib.sh in a copy of scripts/; Python and pip are shell scripts
that behave as the test says, so nothing is downloaded.

"""

from __future__ import annotations

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'scripts' / 'requirements'
# What the set-up calls besides Python.
COMMANDS = ('bash', 'chmod', 'dirname', 'basename', 'cat', 'cp', 'ls', 'awk', 'tee', 'grep', 'sed',
            'tail', 'sha256sum', 'cut', 'mkdir', 'rm', 'touch', 'sleep', 'env', 'df')


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a folder with scripts/ and an empty bin/ that is the whole PATH."""
    shutil.copytree(ROOT / 'scripts', tmp_path / 'scripts')
    (tmp_path / 'bin').mkdir()
    for name in COMMANDS:
        place = shutil.which(name)
        assert place is not None
        (tmp_path / 'bin' / name).symlink_to(place)
    return tmp_path


def fake_python(path: Path, version: str, pip: str = 'exit 0', venv: str = 'exit 0') -> Path:
    """Write a Python that knows its version; `pip` and `venv` say how those modules behave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '#!/usr/bin/env bash\n'
        'case "$*" in\n'
        f'  *version_info*) echo {version} ;;\n'
        f'  *ensurepip*) {venv} ;;\n'
        '  *"import rclpy"*) exit 1 ;;\n'
        f'  *"-m pip install"*) {pip} ;;\n'
        'esac\n', encoding='utf-8')
    path.chmod(0o755)
    return path


def run(checkout: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command line with only the fake programs about."""
    environment = {'PATH': str(checkout / 'bin'), 'HOME': str(checkout), **variables}
    return subprocess.run(['bash', '-c', command], cwd=checkout, capture_output=True, text=True,
                          env=environment, check=False)


def lib(command: str) -> str:
    """Return a command line that sources scripts/lib.sh first, and waits for nothing."""
    return f'set -euo pipefail; source scripts/lib.sh; RETRY_WAITS_S=(0 0); {command}'


def test_no_python_names_the_fix(checkout: Path) -> None:
    done = run(checkout, 'scripts/demo')
    assert done.returncode == 1
    assert 'no Python 3.10, 3.11, 3.12 or 3.13 was found' in done.stderr
    assert 'sudo apt install python3 python3-venv' in done.stderr


def test_a_python_without_venv_names_the_package(checkout: Path) -> None:
    fake_python(checkout / 'bin' / 'python3', '3.12', venv='exit 1')
    done = run(checkout, 'scripts/test')
    assert done.returncode == 1
    assert 'sudo apt install python3.12-venv' in done.stderr


@pytest.mark.parametrize(('version', 'said'), [
    ('3.9', 'is Python 3.9; 3.10 to 3.13 are supported'),
    ('3.14', 'is Python 3.14; 3.10 to 3.13 are supported'),
])
def test_a_python_out_of_range_is_refused(checkout: Path, version: str, said: str) -> None:
    python = fake_python(checkout / 'mine', version)
    done = run(checkout, 'scripts/demo', PYTHON=str(python))
    assert done.returncode == 1
    assert said in done.stderr


def test_a_python_that_does_not_run_is_refused(checkout: Path) -> None:
    done = run(checkout, 'scripts/demo', PYTHON='no-such-python')
    assert done.returncode == 1
    assert 'PYTHON=no-such-python does not run' in done.stderr


def test_the_preferred_python_is_found_among_several(checkout: Path) -> None:
    fake_python(checkout / 'bin' / 'python3.13', '3.13')
    fake_python(checkout / 'bin' / 'python3.12', '3.12')
    fake_python(checkout / 'bin' / 'python3', '3.9')
    done = run(checkout, lib('find_python'))
    assert done.stdout.strip() == str(checkout / 'bin' / 'python3.12')


def test_a_python_behind_pyenv_is_found(checkout: Path) -> None:
    python = fake_python(checkout / 'pyenv/versions/3.11.7/bin/python3.11', '3.11')
    done = run(checkout, lib('find_python'), PYENV_ROOT=str(checkout / 'pyenv'))
    assert done.stdout.strip() == str(python)


def test_a_folder_that_is_no_environment_is_never_deleted(checkout: Path) -> None:
    fake_python(checkout / 'bin' / 'python3', '3.11')
    (checkout / 'mine').mkdir()
    (checkout / 'mine' / 'thesis.tex').write_text('years of work', encoding='utf-8')
    done = run(checkout, 'scripts/demo', VENV='mine')
    assert done.returncode == 1
    assert 'exists and is no virtual environment' in done.stderr
    assert (checkout / 'mine' / 'thesis.tex').read_text(encoding='utf-8') == 'years of work'


def test_an_unfinished_environment_is_made_anew(checkout: Path) -> None:
    venv = checkout / '.venv'
    fake_python(venv / 'bin' / 'python', '3.11')
    (venv / '.unfinished').touch()
    (venv / 'half_a_package').touch()
    maker = 'mkdir -p {0}/bin; cp {1} {0}/bin/python'.format(venv, checkout / 'bin' / 'python3')
    python = fake_python(checkout / 'bin' / 'python3', '3.11')
    python.write_text(python.read_text(encoding='utf-8').replace(
        'esac', f'  *"-m venv"*) {maker} ;;\nesac'), encoding='utf-8')
    done = run(checkout, lib('make_venv python3 ros-wheels; make_venv python3 ros-wheels'))
    assert done.returncode == 0, done.stderr
    assert not (venv / 'half_a_package').exists()
    assert not (venv / '.unfinished').exists()
    assert done.stdout.count('creating it again') == 1
    assert done.stdout.count('exists (Python 3.11, ros-wheels)') == 1


def test_a_full_disk_ends_the_tests_before_anything_is_installed(checkout: Path) -> None:
    fake_python(checkout / 'bin' / 'python3', '3.11')
    (checkout / 'bin' / 'df').unlink()
    (checkout / 'bin' / 'df').write_text(
        '#!/usr/bin/env bash\necho Filesystem; echo /dev/sda 0 0 $FREE_KB\n', encoding='utf-8')
    (checkout / 'bin' / 'df').chmod(0o755)
    done = run(checkout, 'scripts/test', FREE_KB=str(12 * 2**20 - 1))
    assert done.returncode == 1
    assert f'11 GB are free in {checkout}, and 12 GB are needed' in done.stderr
    assert not (checkout / '.venv').exists()
    done = run(checkout, lib('need_space 12 . && echo enough'), FREE_KB=str(12 * 2**20))
    assert done.stdout == 'enough\n'


def installing(checkout: Path, pip: str, times: int = 1) -> subprocess.CompletedProcess[str]:
    """Run `install` of lib.sh against a pip that behaves as told."""
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11', pip=pip)
    (checkout / '.venv' / 'constraints.txt').touch()
    (checkout / 'wanted.txt').touch()
    return run(checkout, lib('install things wanted.txt; ' * times))


def test_a_failed_download_is_tried_again(checkout: Path) -> None:
    pip = 'echo x >>calls; [ "$(cat calls)" = "x\nx\nx" ]'
    done = installing(checkout, pip)
    assert done.returncode == 0, done.stderr
    assert (checkout / 'calls').read_text(encoding='utf-8').split() == ['x'] * 3
    assert done.stdout.count('trying again') == 2


def test_what_was_installed_is_not_installed_again(checkout: Path) -> None:
    done = installing(checkout, 'echo x >>calls', times=2)
    assert done.returncode == 0, done.stderr
    assert (checkout / 'calls').read_text(encoding='utf-8').split() == ['x']
    assert 'things: installed already' in done.stdout
    (checkout / 'wanted.txt').write_text('numpy\n', encoding='utf-8')
    run(checkout, lib('install things wanted.txt'))
    assert (checkout / 'calls').read_text(encoding='utf-8').split() == ['x', 'x']


def test_a_download_that_never_works_leaves_no_stamp(checkout: Path) -> None:
    done = installing(checkout, 'echo "no route to host" >&2; exit 1')
    assert done.returncode == 1
    assert 'no route to host' in done.stderr
    assert 'run this again: it goes on where it stopped' in done.stderr
    assert not (checkout / '.venv' / '.installed-things').exists()


def test_what_is_locked_is_installed_by_its_hashes_and_nothing_else(checkout: Path) -> None:
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11', pip='echo "$*" >>calls')
    for name in ('constraints.txt', 'wanted.txt', 'lock.txt'):
        (checkout / '.venv' / name).write_text(f'# {name}\n', encoding='utf-8')
    line = 'install_locked things .venv/lock.txt .venv/wanted.txt'
    assert run(checkout, lib(line)).returncode == 0
    assert run(checkout, lib(line), LOCKED='0').returncode == 0
    hashed, newest = (checkout / 'calls').read_text(encoding='utf-8').splitlines()
    assert '--require-hashes --no-build-isolation' in hashed and ' -r .venv/lock.txt' in hashed
    assert 'wanted' not in hashed and ' -c ' not in hashed
    assert ' -c ' in newest and ' -r .venv/wanted.txt' in newest and 'lock.txt' not in newest


def test_a_lock_that_cannot_be_installed_is_two_sentences(checkout: Path) -> None:
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11', pip='exit 1')
    (checkout / '.venv' / 'constraints.txt').touch()
    (checkout / 'lock.txt').touch()
    done = run(checkout, lib('install_locked things lock.txt lock.txt; echo went on'))
    assert done.returncode == 1 and 'went on' not in done.stdout
    assert 'if a hash was wrong, do not go on' in done.stderr
    assert 'LOCKED=0 installs what it has' in done.stderr


def test_where_apt_has_opencv_the_lock_goes_without(checkout: Path) -> None:
    system = fake_python(checkout / 'system', '3.12')
    system.write_text(system.read_text(encoding='utf-8').replace(
        '*"import rclpy"*) exit 1', '*"import rclpy"*) exit 0'), encoding='utf-8')
    (checkout / '.venv').mkdir()
    line = ('make_venv() { :; }; keeps_numpy_1() { true; }; '
            'install_locked() { shift; cat "$1" >kept; }; note() { :; }; set_up')
    done = run(checkout, lib(line), ROS_DISTRO='jazzy', PYTHON=str(system))
    assert done.returncode == 0, done.stderr
    whole = (REQUIREMENTS / 'locked' / 'numpy1.txt').read_text(encoding='utf-8').splitlines()
    kept = (checkout / 'kept').read_text(encoding='utf-8').splitlines()
    names = [text.partition('==')[0] for text in whole if '==' in text]
    assert [text.partition('==')[0] for text in kept if '==' in text] == [
        name for name in names if name != 'opencv-python-headless']
    assert set(kept) <= set(whole) and sum('--hash' in text for text in kept) > 100


def test_the_wheels_own_guard_does_not_leak(checkout: Path) -> None:
    # Inherited by another environment's Python it stops rclpy from loading.
    done = run(checkout, lib('env'), _ROS_WHEELS_BOOTSTRAP_COMPLETE='1')
    assert done.returncode == 0
    assert '_ROS_WHEELS_BOOTSTRAP_COMPLETE' not in done.stdout


def test_cv_bridge_is_optional_and_what_is_left_out_is_said(checkout: Path) -> None:
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11')
    python = str(fake_python(checkout / 'system_python', '3.13'))
    apt = checkout / 'bin' / 'apt-get'
    for said, variables in (
        ('WITH_CV_BRIDGE=0', {'WITH_CV_BRIDGE': '0'}),
        ('ROS 2 jazzy has no cv_bridge', {'ROS_DISTRO': 'jazzy'}),
        ('no python3-cv-bridge, and no apt-get as root', {}),
    ):
        done = run(checkout, lib('set_up_cv_bridge'), SYSTEM_PYTHON=python, **variables)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout and 'what needs cv_bridge is skipped' in done.stdout
    apt.write_text('#!/usr/bin/env bash\necho "$*" >>apt_calls; exit 1\n', encoding='utf-8')
    apt.chmod(0o755)
    done = run(checkout, lib('set_up_cv_bridge'), SYSTEM_PYTHON=python)
    assert done.returncode == 0, done.stderr
    if os.geteuid() == 0:
        assert 'python3-cv-bridge: NOT installed' in done.stdout
        assert (checkout / 'apt_calls').read_text(encoding='utf-8') == 'update -qq\n'


def test_kilted_wheels_are_taken_when_asked_for(checkout: Path) -> None:
    assert run(checkout, lib('wheels_file')).stdout.endswith('/requirements/ros.txt\n')
    done = run(checkout, lib('wheels_file; wheels_flavour'), ROS_WHEELS='kilted')
    file, flavour = done.stdout.splitlines()
    assert flavour == 'ros-wheels-kilted'
    assert 'ros-kilted-rclpy' in Path(file).read_text(encoding='utf-8')


def test_both_distributions_get_the_same_packages() -> None:
    names = [{re.sub(rf'^ros-{name}-|~=.*', '', line) for line in text.splitlines()
              if line.startswith('ros-')}
             for name, text in (
                 ('jazzy', (REQUIREMENTS / 'ros.txt').read_text(encoding='utf-8')),
                 ('kilted', (REQUIREMENTS / 'ros_kilted.txt').read_text(encoding='utf-8')))]
    assert names[0] == names[1]
    assert 'rclpy' in names[0]


def test_a_distribution_without_wheels_is_refused_before_anything_is_made(checkout: Path) -> None:
    python = fake_python(checkout / 'mine', '3.11')
    done = run(checkout, 'scripts/demo', PYTHON=str(python), ROS_WHEELS='humble')
    assert done.returncode == 1
    assert 'ROS_WHEELS=humble is unknown' in done.stderr
    assert 'source its setup.bash' in done.stderr
    assert not (checkout / '.venv').exists()


# --- colcon test ---------------------------------------------------------------------------------


def colcon_step(checkout: Path, command: str, said: str) -> subprocess.CompletedProcess[str]:
    """Run a function of scripts/test with a colcon that says what it was given, or `said`."""
    script = (ROOT / 'scripts' / 'test').read_text(encoding='utf-8')
    functions = script[script.index('BUILT='):script.index('totals() {')]
    (checkout / 'functions').write_text(functions, encoding='utf-8')
    report = checkout / '.venv/colcon/build/uncertainty_seg/pytest.xml'
    report.parent.mkdir(parents=True)
    report.touch()
    return run(checkout, lib(
        'source functions; colcon() { printf "<%s>\\n" "$@" >>given; printf "%s\\n" "$SAID"; };'
        f' {command}'), SAID=said)


def test_pytest_options_reach_pytest_through_colcon(checkout: Path) -> None:
    done = colcon_step(checkout, "colcon_tests 'not slow' -k 'gate or mask' --durations=5", '')
    assert done.returncode == 0, done.stderr
    given = (checkout / 'given').read_text(encoding='utf-8').splitlines()
    after = given[given.index('<--pytest-args>') + 1:]
    # A space before each: colcon has options of the same names.
    assert after == [
        '< --timeout=300>', '< --numprocesses=2>', '< --dist=loadfile>',
        '< --max-worker-restart=0>', '< -m>', '< not slow>',
        '< -k>', '< gate or mask>', '< --durations=5>']
    assert '<--return-code-on-test-failure>' in given


@pytest.mark.parametrize(('said', 'collected', 'options', 'is_fine'), [
    ('Summary: 4700 tests, 0 errors, 0 failures, 20 skipped', '4700', '', True),
    ('Summary: 4702 tests, 0 errors, 0 failures, 22 skipped', '4700', '', True),
    ('Summary: 4699 tests, 0 errors, 0 failures, 0 skipped', '4700', '', False),
    ('Summary: 0 tests, 0 errors, 0 failures, 0 skipped', '4700', '', False),
    ('Summary: 0 tests, 0 errors, 0 failures, 0 skipped', '0', '', False),
    ('Summary: 15 tests, 0 errors, 0 failures, 0 skipped', '15', '-k gate', True),
    ('Summary: 0 tests, 0 errors, 0 failures, 0 skipped', '0', '-k gate', True),
    ('Summary: 15 tests, 0 errors, 0 failures, 0 skipped', '', '-k gate', False),
    ('', '4700', '', False),
])
def test_colcon_must_run_what_pytest_collects(
    checkout: Path, said: str, collected: str, options: str, is_fine: bool,
) -> None:
    (checkout / '.venv').mkdir()
    (checkout / '.venv' / 'collected').write_text(collected, encoding='utf-8')
    done = colcon_step(checkout, f"ran_all 'not slow' {options}", said)
    assert (done.returncode == 0) is is_fine, done.stdout


@pytest.mark.parametrize(('line', 'count'), [
    ('5487/5545 tests collected (58 deselected) in 13.33s', '5487'),
    ('1 test collected in 0.10s', '1'),
    ('12 tests collected, 1 error in 9.10s', '12'),
    ('no tests collected (5545 deselected) in 2.11s', '0'),
    ('ERROR: usage: pytest', ''),
])
def test_the_number_of_tests_is_read_from_pytest(checkout: Path, line: str, count: str) -> None:
    python = fake_python(checkout / '.venv' / 'bin' / 'python', '3.11')
    python.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" test_a.py::test_b "{line}"\n',
                      encoding='utf-8')
    assert colcon_step(checkout, "collect 'not slow'", '').stdout.strip() == count


def test_the_end_counts_functions_and_cases_of_both_runs(checkout: Path) -> None:
    script = (ROOT / 'scripts' / 'test').read_text(encoding='utf-8')
    (checkout / 'totals').write_text(
        script[script.index('totals() {'):script.index("step 'Python")], encoding='utf-8')
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    (checkout / '.venv' / 'bin' / 'python').symlink_to(sys.executable)

    def report(name: str, cases: list[str], **counts: int) -> None:
        said = ' '.join(f'{key}="{n}"' for key, n in counts.items())
        body = ''.join(f'<testcase classname="test_a" name="{case}"/>' for case in cases)
        (checkout / '.venv' / f'report-{name}.xml').write_text(
            f'<testsuites><testsuite {said}>{body}</testsuite></testsuites>', encoding='utf-8')

    quick = ['test_b[1]', 'test_b[2]', 'test_c']
    report('quick', quick, tests=3, failures=0, errors=0, skipped=1)
    report('slow', ['test_b[3]'], tests=1, failures=0, errors=0, skipped=0)
    done = run(checkout, lib('source totals; totals'))
    assert done.stdout.splitlines() == ['ran: 2 test functions, 4 cases',
                                        'total: 3 passed, 0 failed, 1 skipped']
    assert done.returncode == 0
    for broken in ({'failures': 1, 'errors': 0}, {'failures': 0, 'errors': 1}):
        report('quick', quick, tests=3, skipped=1, **broken)
        done = run(checkout, lib('source totals; totals'))
        assert done.stdout.splitlines()[-1] == 'total: 2 passed, 1 failed, 1 skipped'
        assert done.returncode == 1


# --- the matrix ----------------------------------------------------------------------------------


def test_a_python_that_is_missing_is_a_line_of_the_matrix(checkout: Path) -> None:
    done = run(checkout, 'scripts/matrix', MATRIX='jazzy:3.10 kilted:3.12')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        '| 3.10 | jazzy | not run: no Python 3.10 here | | | | |',
        '| 3.12 | kilted | not run: no Python 3.12 here | | | | |']


def test_an_installation_that_fails_fails_the_matrix(checkout: Path) -> None:
    fake_python(checkout / 'bin' / 'python3.12', '3.12')
    done = run(checkout, 'scripts/matrix', MATRIX='humble:3.12')
    assert done.returncode == 1
    assert '| 3.12 | humble | not run: its packages could not be installed |' in done.stdout
    assert 'ROS_WHEELS=humble is unknown' in done.stdout


def test_the_workflow_runs_every_pair_of_the_matrix() -> None:
    jobs = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text(encoding='utf-8'))['jobs']
    job = jobs['wheels']
    pairs = {('jazzy', python) for python in job['strategy']['matrix']['python']}
    pairs |= {(entry['wheels'], entry['python'])
              for entry in job['strategy']['matrix']['include'] if 'python' in entry}
    script = (ROOT / 'scripts' / 'matrix').read_text(encoding='utf-8')
    default = re.search(r'MATRIX:-([^}]*)}', script)
    assert default is not None
    assert pairs == {tuple(pair.split(':')) for pair in default[1].split()}
    assert {'humble', 'jazzy', 'kilted', 'rolling'} <= set(
        jobs['ros']['strategy']['matrix']['distro'])


def test_the_tests_that_the_scripts_name_are_there() -> None:
    matrix = (ROOT / 'scripts' / 'matrix').read_text(encoding='utf-8')
    default = re.search(r'MATRIX_TESTS:-([^}]*)}', matrix)
    assert default is not None
    mutate = (ROOT / 'scripts' / 'mutate').read_text(encoding='utf-8')
    rows = re.findall(r"^  '(\S+\.py) (.+)'$", mutate, re.MULTILINE)
    assert len(default[1].split()) >= 5 and len(rows) >= 5
    named = [*default[1].split(), *(f'uncertainty_seg/{module}' for module, _ in rows),
             *(f'test/{test}' for _, tests in rows for test in tests.split())]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_skipping_the_launch_files_says_so(checkout: Path) -> None:
    done = run(checkout, 'scripts/check_launch', WITH_LAUNCH='0')
    assert done.returncode == 0
    assert 'SKIPPED: WITH_LAUNCH=0' in done.stdout


def test_the_soak_gives_its_programs_what_the_tests_share_and_mounts_of_their_own(
    checkout: Path,
) -> None:
    # What the program is given is all that is looked at here.
    shutil.copytree(ROOT / 'test' / 'soak', checkout / 'test' / 'soak')
    find = shutil.which('find')
    assert find is not None
    (checkout / 'bin' / 'find').symlink_to(find)
    (checkout / 'bin' / 'unshare').write_text('#!/usr/bin/env bash\nshift\nexec "$@"\n')
    (checkout / 'bin' / 'true').symlink_to('/bin/true')
    (checkout / 'bin' / 'unshare').chmod(0o755)
    script = (checkout / 'scripts' / 'soak').read_text(encoding='utf-8')
    script = script.replace('\nset_up\n', '\n').replace('\ninstall test', '\n: test')
    (checkout / 'scripts' / 'soak').write_text(script, encoding='utf-8')
    python = fake_python(checkout / '.venv' / 'bin' / 'python', '3.11')
    python.write_text('#!/usr/bin/env bash\necho "$* $UNCERTAINTY_SEG_OWN_MOUNTS $PYTHONPATH"\n')
    for words, program in (('--seed 4', 'test/soak/soak.py --seed 4'),
                           ('loop --frames 9', 'test/soak/soak_loop.py --frames 9')):
        done = run(checkout, f'scripts/soak {words}')
        assert done.returncode == 0, done.stderr
        last = done.stdout.splitlines()[-1]
        assert last.startswith(f'{program} 1 {checkout}:') and f'{checkout}/test/soak:' in last


def test_the_zoo_installs_each_library_by_itself_and_goes_on_after_one_that_fails(
    checkout: Path,
) -> None:
    # In an environment of its own; what would run is only named.
    text = (checkout / 'scripts' / 'zoo').read_text(encoding='utf-8')
    text = text.replace('\nset_up\n', '\nconstrain\n').replace('RETRY_WAITS_S=(5)',
                                                               'RETRY_WAITS_S=()')
    text = text.replace('\nset_up_torch\n', '\n').replace('\ninstall calibrate', '\n: calibrate')
    (checkout / 'scripts' / 'zoo').write_text(text, encoding='utf-8')
    pip = 'case "$*" in *zoo-monai.txt*) exit 1 ;; esac'
    python = fake_python(checkout / '.venv-zoo' / 'bin' / 'python', '3.11', pip=pip)
    said = '  */net_zoo.py*) echo "ran $*" ;;\nesac\n'
    python.write_text(python.read_text().replace('esac\n', said))
    done = run(checkout, 'scripts/zoo --only smp')
    assert done.returncode == 0, done.stderr
    assert 'zoo-monai: NOT installed' in done.stdout
    assert 'zoo-keras: NOT installed' not in done.stdout
    assert done.stdout.splitlines()[-1] == f'ran {checkout}/benchmarks/net_zoo.py --only smp'


def test_ci_runs_the_tests_and_the_workflow_the_soak_after_them() -> None:
    text = (ROOT / '.ci' / 'run').read_text(encoding='utf-8')
    assert '/../scripts/test"' in text
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)
    workflow = (ROOT / '.github' / 'workflows' / 'ci.yml').read_text(encoding='utf-8')
    assert -1 < workflow.find('- run: scripts/test\n') < workflow.find('- run: scripts/soak\n')

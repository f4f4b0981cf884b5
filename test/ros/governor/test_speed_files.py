# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The speed governor's page and launch file agree with its parameters."""

from pathlib import Path
import re

from launch_stand_ins import actions_of, launch_arguments, stand_ins

__all__ = ['launch_arguments', 'stand_ins']  # fixtures; the second applies to every test here
ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / 'docs' / 'guides' / 'mission.md').read_text(encoding='utf-8')
LAUNCH = 'speed_governor.launch.py'


def test_every_launch_argument_is_described_and_on_the_page() -> None:
    declared = actions_of(LAUNCH)['DeclareLaunchArgument']
    listed = re.findall(r'`(\w+)`', PAGE.split('Launch arguments: ')[1].split('\n\n')[0])
    assert [a.words[0] for a in declared] == listed
    assert all(a.description for a in declared)


def test_the_launch_file_joins_the_topics_and_starts_the_governor_again() -> None:
    (node,) = actions_of(LAUNCH)['Node']
    assert f"'{node.executable} = " in (ROOT / 'setup.py').read_text(encoding='utf-8')
    assert [(name, to.words[0]) for name, to in node.remappings] == [
        (name, name) for name in ('confident', 'cmd_vel', 'cmd_vel_limited')]
    assert node.parameters == []
    assert node.respawn is True
    (flag,) = [a for a in actions_of(LAUNCH)['DeclareLaunchArgument'] if a.words == ('confident',)]
    assert flag.default_value == 'uncertainty_seg/confident'


def test_a_parameter_file_is_taken_where_it_is_given(
    arguments: dict[str, str], tmp_path: Path,
) -> None:
    mine = tmp_path / 'mine.yaml'
    mine.write_text('/**:\n  ros__parameters:\n    slow_factor: 0.5\n')
    arguments['params_file'] = str(mine)
    (node,) = actions_of(LAUNCH)['Node']
    assert [p.words[0] for p in node.parameters] == ['params_file']

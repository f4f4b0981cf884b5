# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The YAML file and the table people read are those of the settings."""

from pathlib import Path

from ruamel.yaml import YAML

from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.ros.parameters import (
    parameters_table,
    parameters_yaml,
    TABLE_BEGIN,
    TABLE_END,
    TABLE_PATH,
    with_table,
    YAML_PATH,
)

ROOT = Path(__file__).resolve().parents[2]
RENEW = 'run python -m uncertainty_seg.ros.parameters'


def _flat(tree: dict[str, object], prefix: str = '') -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[f'{prefix}{name}'] = value
    return flat


def test_the_parameter_file_is_up_to_date() -> None:
    assert (ROOT / YAML_PATH).read_text(encoding='utf-8') == parameters_yaml(), RENEW


def test_the_table_is_up_to_date() -> None:
    page = (ROOT / TABLE_PATH).read_text(encoding='utf-8')
    assert page == with_table(page), RENEW
    assert page.count(TABLE_BEGIN) == page.count(TABLE_END) == 1


def test_the_parameter_file_holds_every_default() -> None:
    values = _flat(YAML(typ='safe').load(parameters_yaml())['/**']['ros__parameters'])
    for name in ('cameras', 'gate.scores'):
        values[name] = [word for word in values[name] if word]  # type: ignore[attr-defined]
    assert settings_from_dict(values) == Settings()


def test_the_table_has_a_row_a_parameter_with_range_and_unit() -> None:
    rows = [line for line in parameters_table().splitlines() if line.startswith('| `stale_')]
    assert rows == [
        '| `stale_timeout_s` | `1.0` | a finite number from 0.05 to 3600, in s | yes | '
        'Without a frame for this long the flag falls; also the deadline of ~/confident. |'
    ]

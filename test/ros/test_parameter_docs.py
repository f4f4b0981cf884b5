# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The YAML file and the lists of parameters that people read are those of the settings."""

from pathlib import Path

from parameter_pages import LIST_BEGIN, LIST_END, PAGES, parameters_yaml, with_list, YAML_PATH
import pytest
from ruamel.yaml import YAML

from uncertainty_seg.core.settings import Settings, settings_from_dict

ROOT = Path(__file__).resolve().parents[2]
RENEW = 'run python test/helpers/ros/parameter_pages.py'


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


@pytest.mark.parametrize('path', PAGES, ids=str)
def test_the_list_of_the_page_is_up_to_date(path: Path) -> None:
    page = (ROOT / path).read_text(encoding='utf-8')
    assert page == with_list(page, PAGES[path]), RENEW
    assert page.count(LIST_BEGIN) == page.count(LIST_END) == 1


def test_the_parameter_file_holds_every_default() -> None:
    values = _flat(YAML(typ='safe').load(parameters_yaml())['/**']['ros__parameters'])
    for name in ('cameras', 'gate.scores', 'trusted_keys'):
        values[name] = [word for word in values[name] if word]
    assert settings_from_dict(values) == Settings()

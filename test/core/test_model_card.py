# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A card cannot ask for terabytes, nor bring text that a terminal obeys."""

from __future__ import annotations

import json
from typing import Any

from cases import for_each
from conftest import tiny_card
import pytest

from uncertainty_seg.core.model_card import card_from_json, card_to_json, DropoutSite
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import shipped_bundles


def changed_card(path: str, value: Any) -> str:
    """Return the tiny card as JSON with one field, named with dots, set to a value."""
    raw = json.loads(card_to_json(tiny_card(sha256={'trunk.onnx': '0' * 64})))
    *parents, last = path.split('.')
    place: Any = raw
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return json.dumps(raw)


@for_each('path, value, words', [
    ('input.width', 10**6, 'at most 8192 pixels a side'),
    ('input.height', 8193, 'at most 8192 pixels a side'),
    ('input.width', 10**15, 'whole number belongs'),
    ('input.width', 64.5, '64.5. where a whole number belongs'),
    ('input.width', '64', "'64'. where a whole number|cannot be read"),
    ('input.width', True, 'at least 8 pixels|whole number'),
    ('input.std', [0, 1, 1], 'std above 0'),
    ('input.mean', [0, 1], 'three finite numbers each'),
    ('passes', 10**6, '1000000 passes, expected 0 to 1000'),
    ('passes', 0, 'at least 1'),
    ('chunk', 2, 'chunk'), ('precision', 'tf32', "'tf32'"), ('method', 'x', "'x'"),
    ('input.fit', 'x', "'x'"), ('input.color_order', 'x', "'x'"), ('upsampling', 'x', "'x'"),
    ('mask_draw', 'x', "'x'"),
    ('members', -1, '-1 members, expected 0 to 1000'),
    ('opset', 10**4, 'opset 10000, expected 1 to 100'),
    ('logits_shape', [3, 100_000, 100_000], 'at most 268435456 values a pass'),
    ('logits_shape', [3, 0, 16], 'at most 268435456 values a pass'),
    ('logits_shape', [3, -12, -16], 'at most 268435456 values a pass'),
    ('logits_shape', [3, '12', 16], 'whole number belongs'),
    ('dropout_sites.0.shape', [2**20, 2**20], 'expected 1 to 2147483648 in all passes'),
    ('dropout_sites.0.shape', [-3, -1, 1], 'expected 1 to 2147483648 in all passes'),
    ('dropout_sites.0.shape', [0], 'expected 1 to 2147483648 in all passes'),
    ('dropout_sites.0.shape', [1] * 100, 'more than 8 axes'),
    ('dropout_sites.0.p', 1.5, 'p between 0 and 1'),
    ('dropout_sites.0.name', '', 'characters that can be printed'),
    ('dropout_sites', [{'name': f's{k}', 'shape': [1], 'p': 0.5} for k in range(1001)],
     '1001 dropout sites, expected at most 1000'),
    ('metrics', {f'm{k}': 0.5 for k in range(1001)}, '1001 metrics'),
    ('sha256', {f'f{k}': '0' * 64 for k in range(1001)}, '1001 files'),
    ('sha256', {'trunk.onnx': 'abc'}, "no sha256 of .'trunk.onnx'."),
    ('sha256', {'trunk.onnx': '0' * 63 + '\n'}, "no sha256 of .'trunk.onnx'."),
    ('palette.0', [0, 0, 256], 'a colour outside of 0 to 255'),
    ('palette.0', [0, 0, -1], 'a colour outside of 0 to 255'),
    ('palette.0', [0, 0.5, 0], 'whole number belongs'),
    ('palette.0', [0, 0], 'cannot be read'),
    ('ignore_index', 2, 'ignore_index 2, expected 3 to 255'),
    ('ignore_index', 256, 'ignore_index 256, expected 3 to 255'),
    ('class_names.0', '\x1b[2J', 'characters that can be printed'),
    ('class_names.0', 'a\nb', 'characters that can be printed'),
    ('class_names.0', '\u202eder', 'characters that can be printed'),
    ('class_names.0', 'x' * 201, '1 to 200 characters'),
    ('class_names.0', '', 'characters that can be printed'),
    ('name', '\x07', 'characters that can be printed'),
    ('name', 7, 'cannot be read'),
    ('training', 'x' * 20_001, 'at most 20000 characters'),
    ('license', '\x1b]0;x\x07', 'characters that can be printed'),
    ('metrics', {'\x1b': 1.0}, 'characters that can be printed'),
    ('class_names', [f'c{k}' for k in range(256)], '256 classes, expected 2 to 255'),
    ('input', None, 'cannot be read'),
    ('sha256', [], 'cannot be read'),
])
def test_a_field_beyond_its_bounds_is_one_sentence(path: str, value: Any, words: str) -> None:
    with pytest.raises(ModelBundleError, match=words):
        card_from_json(changed_card(path, value))


MASK = DropoutSite('drop', (3, 1, 1), 0.5)
SAMPLES = DropoutSite('noise', (20, 3, 1, 1), 0.0, 'noise')
PROPAGATED = DropoutSite('noise', (3, 1, 1), 0.0, 'noise')


@for_each('method, sites, passes', [
    ('single', (), 1), ('mc_dropout', (MASK,), 5), ('direct', (SAMPLES,), 1),
    ('direct', (MASK, SAMPLES), 5), ('error_propagation', (PROPAGATED,), 5),
])
def test_a_card_of_each_method_is_read_as_it_was_written(
    method: str, sites: tuple[DropoutSite, ...], passes: int,
) -> None:
    card = tiny_card(method=method, dropout_sites=sites, passes=passes)
    again = card_from_json(card_to_json(card))
    assert again == card
    assert again.has_one_pass == (passes == 1)
    assert (again.mask_sites, again.noise_sites) == (
        tuple(s for s in sites if s is MASK), tuple(s for s in sites if s is not MASK))


@for_each('method, sites, changes, words', [
    ('single', (MASK,), {}, '1 dropout sites for single, expected none'),
    ('single', (SAMPLES,), {}, 'noise of the shapes .* for single, expected none'),
    ('single', (), {'passes': 5}, '5 passes of single without dropout, expected 1'),
    ('single', (), {'members': 2}, '2 members for single'),
    ('mc_dropout', (), {}, 'no dropout site'),
    ('mc_dropout', (SAMPLES,), {}, 'no dropout site'),
    ('mc_dropout', (MASK, SAMPLES), {}, 'for mc_dropout, expected none'),
    ('direct', (), {}, r'noise of the shapes \[\] for direct'),
    ('direct', (MASK,), {}, r'noise of the shapes \[\] for direct'),
    ('direct', (PROPAGATED,), {}, r'one of \(S, C, 1, 1\)'),
    ('direct', (DropoutSite('n', (20, 4, 1, 1), 0.0, 'noise'),), {}, 'for direct'),
    ('direct', (SAMPLES, SAMPLES), {}, 'for direct'),
    ('direct', (SAMPLES,), {'passes': 2}, '2 passes of direct without dropout'),
    ('error_propagation', (MASK, PROPAGATED), {}, '1 dropout sites for error_propagation'),
    ('error_propagation', (SAMPLES,), {}, r'one of \(C, 1, 1\)'),
    ('direct', (DropoutSite('noise', (20, 3, 1, 1), 0.5, 'noise'),), {}, 'noise with p 0'),
    ('mc_dropout', (DropoutSite('drop', (3, 1, 1), 0.0),), {}, 'p between 0 and 1'),
    ('mc_dropout', (DropoutSite('drop', (3, 1, 1), 0.5, 'bogus'), MASK), {},
     r"sites .'drop'."),
])
def test_sites_that_contradict_the_method_are_one_sentence(
    method: str, sites: tuple[DropoutSite, ...], changes: dict[str, int], words: str,
) -> None:
    with pytest.raises(ModelBundleError, match=words):
        tiny_card(**{'method': method, 'dropout_sites': sites, 'passes': 1, **changes})


def test_the_shipped_cards_are_read_as_they_are_written() -> None:
    for folder in shipped_bundles().values():
        text = (folder / 'card.json').read_text()
        assert card_to_json(card_from_json(text)) == text

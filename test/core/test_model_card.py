# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A card that requires terabytes or contains terminal control characters is refused."""

import json
from typing import Any

from cases import for_each
from conftest import tiny_card
import pytest

from uncertainty_seg.core.model_card import card_from_json, card_to_json, DropoutSite
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import shipped_bundles


def changed_card(path: str, value: Any) -> str:
    """Return the tiny card as JSON with one field, given by its dotted path, set to a value."""
    raw = json.loads(card_to_json(tiny_card(sha256={'trunk.onnx': '0' * 64})))
    *parents, last = path.split('.')
    place: Any = raw
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return json.dumps(raw)


@for_each('path, values', [
    ('input.width', [10**6, 10**15, 64.5, '64', True, 7]), ('input.height', [8193]),
    ('input.std', [[0, 1, 1], [float('nan'), 1, 1]]), ('input.mean', [[0, 1]]), ('input', [None]),
    ('input.fit', ['x']), ('input.color_order', ['x']), ('method', ['x']), ('upsampling', ['x']),
    ('mask_draw', ['x']), ('precision', ['tf32']), ('chunk', [0]), ('schema', [1, 3, '2']),
    ('grid_offset', [[0.5, 0], [-0.1, 0], [0.1], [0.1, float('nan')]]),
    ('passes', [10**6, 0, -1]), ('members', [-1]), ('opset', [10**4, 0]),
    ('logits_shape', [[3, 100_000, 100_000], [3, 0, 16], [3, -12, -16], [3, '12', 16]]),
    ('dropout_sites.0.shape', [[2**20, 2**20], [-3, -1, 1], [0], [1] * 100]),
    ('dropout_sites.0.p', [1.5]), ('dropout_sites.0.name', ['']),
    ('dropout_sites', [[{'name': f's{k}', 'shape': [1], 'p': 0.5} for k in range(1001)]]),
    ('metrics', [{f'm{k}': 0.5 for k in range(1001)}, {'\x1b': 1.0}]),
    ('sha256', [{f'f{k}': '0' * 64 for k in range(1001)}, {'trunk.onnx': 'abc'}, [],
                {'trunk.onnx': '0' * 63 + '\n'}]),
    ('palette.0', [[0, 0, 256], [0, 0, -1], [0, 0.5, 0], [0, 0]]), ('ignore_index', [2, 256]),
    ('class_names.0', ['\x1b[2J', 'a\nb', '\u202eder', 'x' * 201, '']),
    ('class_names', [[f'c{k}' for k in range(256)]]), ('name', ['\x07', 7]),
    ('training', ['x' * 20_001]), ('license', ['\x1b]0;x\x07']),
])
def test_a_field_beyond_its_bounds_is_one_sentence(path: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ModelBundleError) as caught:
            card_from_json(changed_card(path, value))
        assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


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


@for_each('method, sites, changes', [
    ('single', (MASK,), {}), ('single', (SAMPLES,), {}), ('single', (), {'passes': 5}),
    ('single', (), {'members': 2}), ('mc_dropout', (), {}), ('mc_dropout', (SAMPLES,), {}),
    ('deep_ensemble', (MASK, MASK), {'members': 2, 'passes': 2}),
    ('deep_ensemble', (MASK,), {'members': 2, 'passes': 4}),
    ('mc_dropout', (MASK, SAMPLES), {}), ('direct', (), {}), ('direct', (MASK,), {}),
    ('direct', (PROPAGATED,), {}), ('direct', (SAMPLES, SAMPLES), {}),
    ('direct', (DropoutSite('n', (20, 4, 1, 1), 0.0, 'noise'),), {}),
    ('direct', (SAMPLES,), {'passes': 2}), ('error_propagation', (MASK, PROPAGATED), {}),
    ('error_propagation', (SAMPLES,), {}),
    ('direct', (DropoutSite('noise', (20, 3, 1, 1), 0.5, 'noise'),), {}),
    ('mc_dropout', (DropoutSite('drop', (3, 1, 1), 0.0),), {}),
    ('mc_dropout', (DropoutSite('drop', (3, 1, 1), 0.5, 'bogus'), MASK), {}),
])
def test_sites_that_contradict_the_method_are_refused(
    method: str, sites: tuple[DropoutSite, ...], changes: dict[str, int],
) -> None:
    with pytest.raises(ModelBundleError):
        tiny_card(**{'method': method, 'dropout_sites': sites, 'passes': 1, **changes})


def test_the_shipped_cards_are_read_as_they_are_written() -> None:
    for folder in shipped_bundles().values():
        text = (folder / 'card.json').read_text()
        assert card_to_json(card_from_json(text)) == text

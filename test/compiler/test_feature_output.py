# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The feature output: which tensor is chosen."""

import dataclasses

from feature_nets import compiled, pyramid, trunk_run
from masked_bundles import SPEC
import numpy as np
import onnx
from onnx import helper
import pytest

from uncertainty_seg.compiler.compile import compile_ensemble, compile_graph
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.errors import GraphError


def test_auto_takes_the_end_of_the_stage_of_stride_16_and_not_what_is_inside_of_the_next() -> None:
    made = compiled('auto')
    assert made.feature_shape == (12, 3, 4)
    assert [d.where for d in made.plan.decisions if d.step == 'features'] == ['s16']
    np.testing.assert_array_equal(*(trunk_run(m, ['feature_map'])[0]
                                    for m in (made, compiled('s16'))))
    plain = compiled('none')
    assert plain.feature_shape is None and b'feature_map' not in plain.files['trunk.onnx']
    assert plain.files['passes.onnx'] == made.files['passes.onnx']


def test_more_channels_are_mixed_and_distances_stay() -> None:
    made = compiled('auto', wide=512)
    assert made.feature_shape == (128, 3, 4)
    mixed = trunk_run(made, ['feature_map'])[0][0].reshape(128, -1).T
    named = compile_graph(pyramid(wide=512), SPEC, CompileOptions(full_weights=True))
    named.trunk.graph.output.append(helper.make_tensor_value_info(
        's16', onnx.TensorProto.FLOAT, [1, 512, 3, 4]))
    whole = trunk_run(dataclasses.replace(
        named, files={'trunk.onnx': named.trunk.SerializeToString()}), ['s16'])[0][0]
    whole = whole.reshape(512, -1).T
    far, near = (np.linalg.norm(v[:, None] - v[None], axis=2) for v in (whole, mixed))
    above = np.triu_indices(12, 1)
    assert 0.9 < np.median(near[above] / far[above]) < 1.1


def test_an_ensemble_gives_the_shared_stem_and_else_the_first_member() -> None:
    options = CompileOptions(features='auto', full_weights=True)
    for stems in ((0, 0), (1, 2)):
        made = compile_ensemble([pyramid(seed, stem=stem) for seed, stem in
                                 enumerate(stems)], SPEC, options)
        first = compiled('auto', stem=stems[0])
        np.testing.assert_allclose(*(trunk_run(m, ['feature_map'])[0] for m in (made, first)),
                                   rtol=1e-5, atol=1e-6)


def test_no_such_tensor_is_one_sentence_that_names_some() -> None:
    for name in ('nothing', 'd'):
        with pytest.raises(GraphError, match=f"'{name}' is no tensor .* one such as .*s16"):
            compiled(name)

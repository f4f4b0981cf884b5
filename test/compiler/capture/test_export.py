# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The package's own network: its encoders, their weights, and a silent export."""

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torchvision')

from uncertainty_seg.compiler.capture.export import export_marked  # noqa: E402
from uncertainty_seg.compiler.compile import compile_graph  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.errors import GraphError, TrainingError  # noqa: E402
from uncertainty_seg.training.batches import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from uncertainty_seg.training.encoders import (  # noqa: E402
    ENCODERS,
    new_encoder,
    pretrained_weights,
)
from uncertainty_seg.training.networks import PyramidNet  # noqa: E402
from uncertainty_seg.training.recipes import DropoutPlan  # noqa: E402

pytestmark = pytest.mark.torch
SPEC = InputSpec(96, 64, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


def test_a_net_without_dropout_is_refused_and_nothing_else_is_said(
    capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraphError, match='no dropout reaches'):
        compile_graph(export_marked(PyramidNet(5, DropoutPlan(head=0.0)).eval(), SPEC), SPEC)
    # capfd also captures the C++ output of torch's exporter.
    assert capfd.readouterr() == ('', '')


def test_an_encoder_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(TrainingError, match='one of mobilenet_v2, lite0'):
        new_encoder('lite9')


@pytest.mark.parametrize('name', ENCODERS)
def test_foreign_or_missing_encoder_weights_are_refused(tmp_path, name: str) -> None:
    with pytest.raises(TrainingError, match='none.pth'):
        pretrained_weights(name, tmp_path / 'none.pth')
    (tmp_path / 'other.pth').write_bytes(b'not weights')
    with pytest.raises(TrainingError, match='sha256'):
        pretrained_weights(name, tmp_path / 'other.pth')

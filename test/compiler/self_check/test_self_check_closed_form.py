# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The self-check holds passes against their closed form, and finds masks that are not right."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.self_check import run as self_check_run
from uncertainty_seg.compiler.self_check.reference import TOLERANCES
from uncertainty_seg.compiler.self_check.run import (
    _closed_form_checks,
    CheckPlan,
    fixed_images,
    Reference,
)
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

FORM = {'logits_of_masks', 'logits_mean', 'logits_variance'}
Masks = dict[str, np.ndarray]


@pytest.fixture(scope='module')
def bundle() -> ModelBundle:
    return load_bundle('pipeline')


@pytest.fixture(scope='module')
def plan(bundle: ModelBundle) -> CheckPlan:
    return CheckPlan(bundle.card, 4, 0, 1.0, fixed_images(bundle.card.input, 1), {},
                     TOLERANCES['fp32'], reduction='coarse')


def failed(
    bundle: ModelBundle, plan: CheckPlan, twist: Callable[[Masks], Masks] | None = None
) -> set[str]:
    """Return which checks failed, of a backend whose masks are twisted on their way."""
    backend: Any = OnnxRuntimeBackend(bundle, Settings(threads=1, reduction='coarse'))
    if twist is not None:
        sampled = backend.sampled_logits
        backend.sampled_logits = lambda image, masks: sampled(image, twist(masks))
    checks = _closed_form_checks(backend, Reference(bundle, 1, 'coarse'), plan)
    backend.close()
    assert {check.name for check in checks} == FORM
    return {check.name for check in checks if not check.is_passed}


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Masks], Masks]:
    return lambda masks: {name: np.ascontiguousarray(change(rows)).astype(np.float32)
                          for name, rows in masks.items()}


def test_a_sound_backend_agrees_with_the_closed_form(
    bundle: ModelBundle, plan: CheckPlan
) -> None:
    assert failed(bundle, plan) == set()


@pytest.mark.release
@pytest.mark.parametrize(('change', 'expected'), [
    (lambda m: m[:, ::-1], {'logits_of_masks'}),  # another channel's mask
    (lambda m: np.roll(m, 1, 0), {'logits_of_masks'}),  # another pass's
    (lambda m: m / 2, FORM),  # not divided by the chance to be kept
    (lambda m: np.repeat(m[:1], len(m), 0), {'logits_of_masks'}),  # one for a whole chunk
    (np.ones_like, {'logits_of_masks', 'logits_variance'}),
])
def test_masks_that_the_runtime_applies_wrongly_are_found(
    bundle: ModelBundle, plan: CheckPlan, change: Callable[[np.ndarray], np.ndarray],
    expected: set[str],
) -> None:
    assert failed(bundle, plan, each(change)) >= expected


@pytest.mark.parametrize(('change', 'expected'), [
    (lambda m: m / 2, {'logits_mean', 'logits_variance'}),
    (lambda m: np.minimum(m, 1), {'logits_mean', 'logits_variance'}),
    (lambda m: np.repeat(m[:1], len(m), 0), {'logits_mean', 'logits_variance'}),
    (lambda m: (m + 1) / 2, {'logits_variance'}),  # half as strong
])
def test_masks_that_are_drawn_wrongly_are_found(
    bundle: ModelBundle, plan: CheckPlan, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[np.ndarray], np.ndarray], expected: set[str],
) -> None:
    drawn = self_check_run.lazy_inputs
    monkeypatch.setattr(self_check_run, 'lazy_inputs', lambda *given: each(change)(
        {name: rows[:] for name, rows in drawn(*given).items()}))
    assert failed(bundle, plan) == expected


def test_a_head_that_turns_the_masks_round_is_found(
    bundle: ModelBundle, plan: CheckPlan, tmp_path: Path
) -> None:
    site = bundle.card.dropout_sites[0]
    head = onnx.load(str(bundle.head_path))
    for node in head.graph.node:
        node.input[:] = ['turned' if name == site.name else name for name in node.input]
    head.graph.node.insert(0, helper.make_node('Gather', [site.name, 'order'], ['turned'], axis=1))
    order = np.arange(site.shape[0])[::-1].copy()
    head.graph.initializer.append(numpy_helper.from_array(order, 'order'))
    write_bundle(tmp_path / 'turned', dataclasses.replace(bundle.card, sha256={}), {
        'trunk.onnx': bundle.trunk_path.read_bytes(), 'head.onnx': head.SerializeToString()})
    # The reference runs the same file: nothing else could know.
    assert failed(load_bundle(str(tmp_path / 'turned')), plan) == {'logits_of_masks'}


@pytest.mark.release
@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_the_shipped_runtimes_pass_without_passes(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(backend)
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'cache'))
    assert main(['self-check', 'pipeline', '--passes', 'inf', '--backend', backend, '--frames',
                 '1', '--runs', '4']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'passes inf' in lines[0]
    assert sum(line.split()[:1] == [name] for line in lines[1:] for name in FORM) == len(FORM)
    assert max(len(line) for line in lines[1:-1]) <= 110

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Check on this machine that a backend computes a model as it should.

Fixed images and masks from a seed go through the backend, and through ONNX Runtime on the CPU
in float32 with the definitions in numpy behind it. Labels, maps and scores have to agree as
closely as the precision allows, be finite and possible, and come out the same again; memory must
not grow. What was found is kept beside the engines: a precision that failed is refused here.

"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.tools.arguments import (
    add_settings,
    print_json,
    settings_from_args,
    whole_number,
)

HELP = 'check that a backend computes what it should on this machine'
_NAMES = ('backend', 'precision', 'passes', 'seed', 'threads', 'memory_budget_mb')
# TensorRT rounds the factors of a float32 product to 10 bits unless it is told not to.
_TF32_BACKENDS = ('tensorrt', 'onnxruntime_tensorrt')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--frames', type=whole_number(1, 1000), default=4,
                        help='images compared with the reference, a second or two each [4]')
    parser.add_argument('--runs', type=whole_number(4, 100000), default=40,
                        help='runs for repeatability, memory and times [40]')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write the JSON there too')
    add_settings(parser, _NAMES)


def run(args: argparse.Namespace) -> int:
    """Check, print a table and a line of JSON; 1 if a check failed."""
    from uncertainty_seg.backends.gpu.self_check_record import SelfCheckRecord, write_record
    from uncertainty_seg.storage.model_bundle import load_bundle
    from uncertainty_seg.tools.arguments import json_text
    from uncertainty_seg.tools.self_check_run import report_table, report_values

    settings = settings_from_args(args, _NAMES)
    bundle = load_bundle(args.bundle)
    key, found, facts = _check(bundle, settings, args)
    values = report_values(found, facts)
    record = SelfCheckRecord(key, values['is_passed'], tuple(values['failed']), values)
    print(report_table(found, facts))
    place = write_record(record)
    if args.report is not None:
        args.report.write_text(json_text(values) + '\n', encoding='utf-8')
    print_json({**values, 'record': str(place)})
    return 0 if values['is_passed'] else 1


def _check(bundle: Any, settings: Settings, args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Open the backend and its reference, and run them; return key, findings and facts."""
    from tqdm import tqdm

    from uncertainty_seg.backends.gpu.self_check_record import checking, key_of
    from uncertainty_seg.backends.registry import open_backend
    from uncertainty_seg.core.settings import precision_of
    from uncertainty_seg.tools.self_check_run import (
        check_backend,
        fixed_images,
        power_reader,
        Reference,
    )

    precision = precision_of(bundle.card, settings.precision)
    with checking():
        backend = open_backend(settings.backend, bundle, settings)
    try:
        arithmetic = arithmetic_of(backend.name, precision)
        plan = _plan(bundle, settings, fixed_images(bundle.card.input, args.frames), arithmetic)
        key = key_of(bundle.card, backend, precision)
        facts = {'bundle': bundle.card.name, 'backend': backend.name, 'version': key.version,
                 'precision': precision, 'arithmetic': arithmetic, 'device': key.device,
                 'passes': plan.passes, 'frames': args.frames}
        with tqdm(total=args.frames + 1 + args.runs, desc='self-check', leave=False) as bar:
            found = check_backend(backend, Reference(bundle, settings.threads), plan, args.runs,
                                  power_reader(), lambda words: bar.update(),
                                  partial(_open_unrecorded, bundle, settings))
    finally:
        backend.close()
    return key, found, facts


def _open_unrecorded(bundle: Any, settings: Settings) -> Any:
    """Open the only backend that records CUDA graphs, without them."""
    from uncertainty_seg.backends.gpu.self_check_record import checking
    from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend

    with checking():
        return TensorRtBackend(bundle, settings, is_recorded=False)


def arithmetic_of(backend: str, precision: str) -> str:
    """Say what the products are computed in: a key of `core.self_check.TOLERANCES`."""
    return 'tf32' if precision == 'fp32' and backend in _TF32_BACKENDS else precision


def _plan(bundle: Any, settings: Settings, images: Any, arithmetic: str) -> Any:
    from uncertainty_seg.analysis.self_check import TOLERANCES
    from uncertainty_seg.core.gate import gate_limits
    from uncertainty_seg.core.scores.vector import ScoreVector
    from uncertainty_seg.tools.self_check_run import CheckPlan

    card, calibration = bundle.card, bundle.calibration
    passes = card.passes if settings.passes == BUNDLE_PASSES else settings.passes
    tolerance = TOLERANCES[arithmetic]
    if calibration is None:
        return CheckPlan(card, passes, settings.seed, 1.0, images, {}, tolerance)
    limits = gate_limits(calibration, settings.gate)
    scorer = ScoreVector(card, calibration.pixel_limits, calibration.density, limits)
    return CheckPlan(
        card, passes, settings.seed, calibration.temperature, images, limits, tolerance, scorer
    )

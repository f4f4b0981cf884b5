# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Check that a backend computes a model correctly on this machine.

Fixed images, with masks drawn from a seed, go through the backend, and through ONNX Runtime on the
CPU in float32 with the definitions in numpy behind it. Labels, maps and scores have to agree as
closely as the precision allows, be finite and possible, and be the same in every run; memory must
not grow. The result is kept beside the engines: a precision that failed is refused here.

"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.core.settings import passes_of, Settings
from uncertainty_seg.storage.whole_files import json_text

if TYPE_CHECKING:
    from uncertainty_seg.core.bundle import ModelBundle



@dataclass(frozen=True)
class SelfCheckOutcome:
    """
    What a self-check found.

    Attributes
    ----------
    is_passed : bool
        Whether every check passed.
    values : dict of str to any
        Bundle, backend, every check with its limit, latency and power; for JSON.
    table : str
        The same for a reader.
    record : Path
        File that the backend looks at before it computes in this precision.

    """

    is_passed: bool
    values: dict[str, Any]
    table: str
    record: Path


def self_check(
    bundle: ModelBundle | Path | str,
    *,
    settings: Settings | None = None,
    frames: int = 4,
    runs: int = 40,
    report: Path | str | None = None,
) -> SelfCheckOutcome:
    """
    Compare a backend with ONNX Runtime on the CPU, and keep the result beside the engines.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Shipped name or folder.
    settings : Settings, optional
        Backend, precision, T, seed, threads and memory budget.
    frames : int
        Images compared with the reference.
    runs : int
        Runs for repeatability, memory and times.
    report : Path or str, optional
        File to write `values` to, as JSON.

    Returns
    -------
    SelfCheckOutcome
        Whether the checks passed, and all figures.

    Raises
    ------
    UncertaintySegError
        If the bundle cannot be read or the backend does not work here.

    """
    from tqdm import tqdm

    from uncertainty_seg.backends.gpu.engine_cache import (
        checking,
        key_of,
        SelfCheckRecord,
        write_record,
    )
    from uncertainty_seg.backends.opening import as_bundle, checked_settings
    from uncertainty_seg.backends.registry import open_backend
    from uncertainty_seg.compiler.self_check.run import (
        check_backend,
        fixed_images,
        power_reader,
        Reference,
        report_table,
        report_values,
    )
    from uncertainty_seg.core.settings import precision_of

    settings = checked_settings(settings)
    bundle = as_bundle(bundle, trusted_keys=settings.trusted_keys)
    precision = precision_of(bundle.card, settings.precision)
    with checking():
        backend = open_backend(settings.backend, bundle, settings)
    try:
        plan = _plan(bundle, settings, fixed_images(bundle.card.input, frames), precision)
        key = key_of(bundle.card, backend, precision)
        reference = Reference(bundle, settings.threads, plan.reduction)
        facts = {'bundle': bundle.card.name, 'backend': backend.name, 'version': key.version,
                 'precision': precision, 'device': key.device,
                 'passes': plan.passes,
                 'frames': frames}
        with tqdm(total=frames + 1 + runs, desc='self-check', leave=False) as bar:
            found = check_backend(backend, reference, plan, runs,
                                  power_reader(), lambda words: bar.update(),
                                  partial(_open_unrecorded, bundle, settings))
    finally:
        backend.close()
    values = report_values(found, facts)
    record = SelfCheckRecord(key, values['is_passed'], tuple(values['failed']), values)
    if report is not None:
        Path(report).write_text(json_text(values) + '\n', encoding='utf-8')
    return SelfCheckOutcome(values['is_passed'], values, report_table(found, facts),
                            write_record(record))


def _open_unrecorded(bundle: Any, settings: Settings) -> Any:
    """Open the only backend that records CUDA graphs, without them."""
    from uncertainty_seg.backends.gpu.engine_cache import checking
    from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend

    with checking():
        return TensorRtBackend(bundle, settings, is_recorded=False)


def _plan(bundle: Any, settings: Settings, images: Any, precision: str) -> Any:
    from uncertainty_seg.compiler.self_check.reference import TOLERANCES
    from uncertainty_seg.compiler.self_check.run import CheckPlan
    from uncertainty_seg.core.bundle import reduction_of
    from uncertainty_seg.core.gate import gate_limits
    from uncertainty_seg.core.scores.vector import ScoreVector
    from uncertainty_seg.core.uncertainty import MapRequest

    card, calibration = bundle.card, bundle.calibration
    passes = passes_of(card, settings)
    tolerance, reduction = TOLERANCES[precision], reduction_of(bundle, settings)
    if calibration is None:
        return CheckPlan(card, passes, settings.seed, 1.0, images, {}, tolerance,
                         reduction=reduction, precision=precision)
    limits = gate_limits(calibration, settings.gate)
    scorer = ScoreVector(card, calibration.pixel_limits, calibration.density, limits,
                         bundle.features)
    return CheckPlan(
        card, passes, settings.seed, calibration.temperature, images, limits, tolerance, scorer,
        MapRequest.of(scorer.maps, calibration.unknown_temperature), reduction, precision,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--frames', type=whole_number(1, 1000), default=4,
                        help='images compared with the reference, a second or two each [4]')
    parser.add_argument('--runs', type=whole_number(4, 100000), default=40,
                        help='runs for repeatability, memory and times [40]')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write the JSON there too')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print a table and a line of JSON; 1 if a check failed."""
    found = call_with(self_check, args, settings=settings_from_args(args))
    print(found.table)
    print_json({**found.values, 'record': str(found.record)})
    return 0 if found.is_passed else 1

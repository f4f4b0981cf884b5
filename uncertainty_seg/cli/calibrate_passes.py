# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure when fewer than T passes settle a verdict, and write it into the calibration.

The frames need no labels: the scores after some of the passes are compared with those after all
of them, on bags, folders of pictures or frame logs. Three of four frames are measured; on the
fourth the outcome is checked, and printed: how many passes a frame takes, and how often the
verdict is that of all T. After it the node may be started with pass_policy auto. The bundle is no
longer signed, and calibrating it again drops what was measured here.

"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    rate,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.errors import BagError, CalibrationError, ConfigError, UncertaintySegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uncertainty_seg.core.arrays import ImageU8
    from uncertainty_seg.core.bundle import ModelBundle
    from uncertainty_seg.core.pipeline import Pipeline
    from uncertainty_seg.core.scores.pass_steps import PassSteps
    from uncertainty_seg.core.settings import Settings

    Table = dict[str, NDArray[np.float64]]

MISUSE = (BagError, CalibrationError, ConfigError)
ERROR = 0.01
# Of so many frames one is for the check.
_CHECKED_EVERY = 4
_NAMES = ('backend', 'threads', 'seed', 'mask_policy', 'precision', 'gate.scores', 'gate.alpha',
          'gate.threshold_scale', 'gate.rise_ratio')


@dataclass(frozen=True)
class PassesMeasured:
    """
    What was written, and how it did on frames that it was not measured on.

    Attributes
    ----------
    steps : PassSteps
        As in the calibration.
    num_checked : int
        Frames of the check.
    same_verdict : float
        Share of them whose verdict is that of all T passes.
    mean_passes : float
        That they took, on average.
    skipped : int
        Frames that could not be read, or have a score that is not finite.

    """

    steps: PassSteps
    num_checked: int
    same_verdict: float
    mean_passes: float
    skipped: int

    def summary(self) -> dict[str, object]:
        """Return the figures."""
        return {'steps': list(self.steps.steps), 'passes': self.steps.passes,
                'error': self.steps.error, 'radius': round(self.steps.radius, 4),
                'frames': 2 * self.steps.num_frames, 'checked': self.num_checked,
                'same_verdict': round(self.same_verdict, 4),
                'mean_passes': round(self.mean_passes, 2), 'skipped': self.skipped}


def calibrate_passes(
    bundle: ModelBundle | Path | str,
    inputs: Sequence[Path | str],
    *,
    settings: Settings | None = None,
    steps: Sequence[int] = (),
    error: float = ERROR,
    stride: int = 1,
) -> PassesMeasured:
    """
    Measure when fewer passes are enough, and write it into the bundle's calibration.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Calibrated; shipped name or folder.
    inputs : sequence of Path or str
        Bags, folders of pictures, frame logs, or folders of these.
    settings : Settings, optional
        Backend, seed, mask policy, precision and the scores of the gate. The reduction is always
        `coarse`, the one that can stop early.
    steps : sequence of int
        Passes after which a verdict may be settled; a quarter and half of T if it is empty.
    error : float
        Largest share of frames, in (0, 1), whose verdict may differ from that of T passes.
    stride : int
        Every so many frames of a source are taken.

    Returns
    -------
    PassesMeasured
        Also of the frames of the check.

    Raises
    ------
    CalibrationError
        If the bundle is not calibrated for these settings and the coarse reduction, or there are
        too few frames.
    ConfigError
        If the steps do not grow, or reach T; if passes of its method are no draws of masks.
    BagError
        If an input is missing, or holds no frame.

    """
    import numpy as np

    from uncertainty_seg.backends.opening import as_bundle, checked_settings, open_pipeline
    from uncertainty_seg.core.scores.pass_steps import default_steps, PassSteps
    from uncertainty_seg.storage.model_bundle import write_calibration

    opened = as_bundle(bundle)
    # Only the coarse reduction can stop early: what it would be run with is measured.
    chosen = replace(checked_settings(settings), pass_policy='all', deadline_ms=0.0,
                     reduction='coarse')
    with open_pipeline(opened, settings=chosen) as pipeline:
        wanted = tuple(steps) or default_steps(pipeline.passes)
        _require_steps(wanted, pipeline)
        rows, skipped = [], 0
        for index, image in enumerate(_images([Path(item) for item in inputs], stride)):
            row = None if image is None else _scores_at(pipeline, image, wanted, index)
            skipped += row is None
            rows += [] if row is None else [row]
        names, limits = tuple(pipeline.thresholds), pipeline.thresholds
        rise_ratio, passes = pipeline.settings.gate.rise_ratio, pipeline.passes
    assert opened.calibration is not None
    table = {name: np.array([[scores[name] for scores in row] for row in rows], np.float64)
             .reshape(len(rows), len(wanted) + 1) for name in names}
    is_checked = np.arange(len(rows)) % _CHECKED_EVERY == _CHECKED_EVERY - 1
    found = PassSteps.fit({n: v[~is_checked] for n, v in table.items()}, wanted, passes, limits,
                          rise_ratio, error, opened.calibration.floors)
    same, mean = _checked({n: v[is_checked] for n, v in table.items()}, found)
    write_calibration(opened, replace(opened.calibration, pass_steps=found), opened.features)
    return PassesMeasured(found, int(is_checked.sum()), same, mean, skipped)


def _require_steps(steps: Sequence[int], pipeline: Pipeline) -> None:
    from uncertainty_seg.core.scores.pass_steps import grow

    # First: of one pass there are no steps.
    if pipeline.card.method != 'mc_dropout':
        raise ConfigError(f'a bundle of the method {pipeline.card.method}',
                          'mc_dropout, whose passes are draws of masks',
                          'run it with pass_policy all')
    if not steps or not grow([0, *steps, pipeline.passes]):
        raise ConfigError(f'steps {list(steps)}',
                          f'growing numbers from 1 to {pipeline.passes - 1}, below T')


def _images(inputs: Sequence[Path], stride: int) -> Iterator[ImageU8 | None]:
    """Decode every frame; None for one that cannot be."""
    from uncertainty_seg.core.image_codec import decode
    from uncertainty_seg.storage.frame_sources import BadFrame, find_sources, read_source

    problems: list[str] = []
    for source in find_sources(inputs, (), problems):
        for frame in read_source(source, stride):
            try:
                yield None if isinstance(frame, BadFrame) else decode(frame.raw)
            except UncertaintySegError:
                yield None
    if problems:
        raise BagError(problems[0])


def _scores_at(
    pipeline: Pipeline, image: ImageU8, steps: Sequence[int], stamp_ns: int
) -> list[dict[str, float]] | None:
    """
    Score a frame after some passes, and after all; None if a gated score is not finite.

    The first passes are those of the T masks that the frame gets, which under the policy
    'per_frame' follow from its stamp: drawn for fewer passes they would be other ones.
    """
    import numpy as np

    epoch, found = pipeline.begin(), []
    drawn = pipeline.masks_of(epoch, stamp_ns)
    given = replace(epoch.settings, mask_policy='fixed')
    for count in (*steps, epoch.passes):
        masks = {name: rows[:count] for name, rows in drawn.items()}
        few = replace(epoch, settings=given, masks=masks, passes=count)
        found.append(dict(pipeline.measure(image, 0, few).scores))
    finite = all(np.isfinite(scores[name]) for scores in found for name in epoch.thresholds)
    return found if finite else None


def _checked(table: Table, steps: PassSteps) -> tuple[float, float]:
    """Return the share of frames with the verdict of all passes, and the mean of passes taken."""
    import numpy as np

    same, taken = steps.simulated(table)
    return (float(np.mean(same)), float(np.mean(taken))) if same.size else (float('nan'),) * 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('inputs', type=Path, nargs='+', metavar='PATH',
                        help='bags, folders of pictures, frame logs')
    parser.add_argument('--steps', type=whole_number(1), nargs='+', default=(), metavar='T',
                        help='passes after which a verdict may be settled [T/4 and T/2]')
    parser.add_argument('--error', type=rate, default=ERROR,
                        help=f'share of frames whose verdict may differ [{ERROR:g}]')
    parser.add_argument('--stride', type=whole_number(1), default=1,
                        help='take every so many frames [1]')
    add_settings(parser, _NAMES)


def run(args: argparse.Namespace) -> int:
    """Measure, write and print."""
    from uncertainty_seg.storage.model_bundle import find_bundle

    found = call_with(calibrate_passes, args, settings=settings_from_args(args, _NAMES))
    print(f'T={found.steps.passes}: {found.mean_passes:.1f} passes a frame on average, and the '
          f'verdict of all of them in {found.same_verdict:.2%} of {found.num_checked} frames that '
          'were not measured on')
    print_json({'bundle': str(find_bundle(args.bundle)), **found.summary()})
    return 0

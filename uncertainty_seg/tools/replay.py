# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the model over a recorded bag and write what the node would have published.

The same pipeline as the node's, over every image, without ROS. Outputs carry the stamps of their
images; the same bag, model and seed give the same bytes. A frame that cannot be used is counted,
reported and written as not confident.

"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
import dataclasses
from dataclasses import dataclass, field
import logging
from pathlib import Path
import sys
import time
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import draw_flag, heatmap, heatmap_upper, overlay
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, BagError, ImageError
from uncertainty_seg.storage.bags.reader import BadMessage, BagImage, BagReader, BagWriter, Status
from uncertainty_seg.storage.ignore_mask import load_ignore_mask
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools.arguments import add_settings, print_json, settings_from_args

# -------------------------------------------------------------------------------------------------
# Write the result of one frame to a bag under the topics of the node.
# No clock is read and no latency is written, so that a replay's bytes depend on its input alone.
# Knows nothing of where frames come from.

NODE_NAME = '/uncertainty_seg'
VERDICT_NAME = 'uncertainty_seg: verdict'
OK, WARN, ERROR = 0, 1, 2
_LEVELS = {'confident': OK, 'uncertain': WARN, 'recovering': WARN}


@dataclass(frozen=True)
class OutputChoice:
    """
    What to write beside mask, flag, score and status.

    Attributes
    ----------
    has_maps : bool
        The uncertainty map (32FC1) and the confidence (mono8).
    has_views : bool
        Heatmap and overlay, for people.

    """

    has_maps: bool = False
    has_views: bool = False


MASKS_ONLY = OutputChoice()


def write_result(
    writer: BagWriter,
    pipeline: Pipeline,
    item: BagImage,
    image: ImageU8,
    result: FrameResult,
    choice: OutputChoice,
    heatmap_upper: float,
) -> None:
    """
    Write the images and the verdict of a frame.

    Parameters
    ----------
    writer, pipeline : BagWriter, Pipeline
        Where to; what made the result.
    item, image : BagImage, ndarray of uint8, shape (H, W, 3)
        The message, for its stamp and frame, and its pixels in BGR.
    result : FrameResult
        The frame's outputs.
    choice : OutputChoice
        Which of them.
    heatmap_upper : float
        Uncertainty drawn as the warmest colour.

    """

    def write(name: str, array: NDArray[Any], encoding: str) -> None:
        topic = f'{NODE_NAME}/{name}'
        writer.write_image(
            topic, item.stamp_ns, item.frame_id, array, encoding, item.received_ns
        )

    label = result.label_at_source()
    write('mask', label, 'mono8')
    if choice.has_maps:
        write('uncertainty', result.map_at_source(pipeline.settings.map), '32FC1')
        write('confidence', result.confidence_at_source(), 'mono8')
    if choice.has_views:
        uncertainty = result.map_at_source(pipeline.settings.map)
        write('heatmap', heatmap(uncertainty, heatmap_upper), 'bgr8')
        alpha = pipeline.settings.view.overlay_alpha
        painted = overlay(image, label, pipeline.card.palette, alpha)
        write('overlay', draw_flag(painted, result.verdict), 'bgr8')
    write_verdict(writer, pipeline, item.stamp_ns, item.received_ns, result.verdict, result)


def write_verdict(
    writer: BagWriter,
    pipeline: Pipeline,
    stamp_ns: int,
    received_ns: int,
    verdict: Verdict,
    result: FrameResult | None = None,
) -> None:
    """Write flag, score and status; `result` is None if there was no usable frame."""
    writer.write_bool(f'{NODE_NAME}/confident', received_ns, verdict.is_confident)
    writer.write_float(f'{NODE_NAME}/score', received_ns, verdict.score_ratio)
    status = verdict_status(pipeline, verdict, result)
    writer.write_diagnostics(f'{NODE_NAME}/status', stamp_ns, (status,), received_ns)


def verdict_status(
    pipeline: Pipeline, verdict: Verdict, result: FrameResult | None = None
) -> Status:
    """
    Put verdict, scores and thresholds into a diagnostics entry.

    Its keys are those of the node's ~/status, less the latencies: a test compares them.

    """
    values = {
        'confident': str(verdict.is_confident).lower(),
        'kind': verdict.kind,
        'score_ratio': f'{verdict.score_ratio:.6g}',
        'promise': verdict.promise or 'none',
    }
    values |= {f'threshold.{name}': f'{limit:.6g}' for name, limit in pipeline.thresholds.items()}
    if result is not None:
        values['passes'] = str(result.passes)
        values |= {f'score.{name}': f'{value:.6g}' for name, value in result.scores.items()}
    level = _LEVELS.get(verdict.kind, ERROR)
    return Status(level, VERDICT_NAME, '; '.join(verdict.reasons), values)


# -------------------------------------------------------------------------------------------------
# Run the pipeline over every image of a bag.
# It drops no frame. One that cannot be used is counted and written as not confident, with the
# reason. If the input breaks off, the frames before it are kept and the report says so.

_LOG = logging.getLogger(__name__)
NUM_PROBLEMS_KEPT = 5


@dataclass
class ReplayReport:
    """
    What a replay did.

    Attributes
    ----------
    topic, model, backend : str
        Where the images were; what judged them.
    passes : int
        T.
    num_frames, num_bad, num_confident : int
        Image messages; those of them that could not be used; those with the flag up.
    problems : list of str
        The reasons of the first bad frames.
    broke_off : str
        Why the input ended early; empty if it did not.

    """

    topic: str
    model: str
    backend: str
    passes: int
    num_frames: int = 0
    num_bad: int = 0
    num_confident: int = 0
    problems: list[str] = field(default_factory=list)
    broke_off: str = ''


def replay_bag(
    in_bag: Path,
    out_bag: Path,
    settings: Settings,
    topic: str | None = None,
    storage: str = 'mcap',
    choice: OutputChoice = MASKS_ONLY,
    *,
    is_overwriting: bool = False,
) -> ReplayReport:
    """
    Replay a bag into another one.

    Parameters
    ----------
    in_bag, out_bag : Path
        Input and output.
    settings : Settings
        Model, backend, T, seed and so on.
    topic : str or None
        Image topic; None if the bag has only one.
    storage : str
        'mcap' or 'sqlite3'.
    choice : OutputChoice
        What to write beside mask, flag, score and status.
    is_overwriting : bool
        Replace `out_bag` if it is a bag.

    Returns
    -------
    ReplayReport
        Counts, for people and scripts.

    Raises
    ------
    UncertaintySegError
        If a bag or the model cannot be used. Nothing is written then.

    """
    if out_bag.resolve() == in_bag.resolve():
        raise BagError(f'{out_bag} is both input and output', 'two bags', 'name another output')
    writer = BagWriter(out_bag, storage, is_overwriting=is_overwriting)
    with BagReader(in_bag) as bag:
        topic = bag.image_topic(topic)
        if bag.count(topic) == 0:
            raise BagError(f'bag {in_bag} has no message on {topic}', 'at least one image')
        pipeline = open_pipeline(load_bundle(settings.model), settings,
                                 load_ignore_mask(settings.ignore_mask))
        upper = heatmap_upper(settings, pipeline.calibrated)
        with closing(pipeline), writer:
            replay = _Replay(writer, pipeline, choice, upper, topic)
            bar = tqdm(
                replay.frames(bag.images(topic)), total=bag.count(topic), desc='replay',
                unit='frame', file=sys.stderr, disable=None,
            )
            for _ in bar:
                bar.set_postfix(bad=replay.report.num_bad, refresh=False)
    return replay.report


class _Replay:
    """The loop over the frames and what it counts."""

    def __init__(
        self, writer: BagWriter, pipeline: Pipeline, choice: OutputChoice, upper: float, topic: str
    ) -> None:
        self._writer, self._pipeline, self._choice, self._upper = writer, pipeline, choice, upper
        self.report = ReplayReport(
            topic, pipeline.card.name, pipeline.backend_name, pipeline.passes
        )

    def frames(self, items: Iterator[BagImage | BadMessage]) -> Iterator[None]:
        while True:
            try:
                item = next(items, None)
            except BagError as err:
                if self.report.num_frames == 0:
                    raise
                self.report.broke_off = str(err)
                return
            if item is None:
                return
            self._take(item)
            yield

    def _take(self, item: BagImage | BadMessage) -> None:
        self.report.num_frames += 1
        if isinstance(item, BadMessage):
            # Its header is lost with it; the time of its arrival is the stamp that is left.
            self._fault(item.received_ns, item.received_ns, item.reason)
            return
        try:
            image = decode(item.raw)
            result = self._pipeline.process(image, item.stamp_ns)
        except (ImageError, BackendError) as err:
            self._fault(item.stamp_ns, item.received_ns, str(err))
            return
        self.report.num_confident += result.verdict.is_confident
        write_result(
            self._writer, self._pipeline, item, image, result, self._choice, self._upper
        )

    def _fault(self, stamp_ns: int, received_ns: int, reason: str) -> None:
        report = self.report
        report.num_bad += 1
        if len(report.problems) < NUM_PROBLEMS_KEPT:
            report.problems.append(f'frame {report.num_frames}: {reason}')
        verdict = self._pipeline.fault(reason)
        write_verdict(self._writer, self._pipeline, stamp_ns, received_ns, verdict)


# -------------------------------------------------------------------------------------------------

HELP = 'run the model over a bag; write mask, flag, score and status to another bag'

SETTINGS = ('model', 'backend', 'threads', 'passes', 'seed', 'mask_policy',
            'precision', 'map')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('in_bag', metavar='IN_BAG', type=Path, help='bag with images')
    parser.add_argument('out_bag', metavar='OUT_BAG', type=Path, help='bag to write')
    parser.add_argument('--topic', help='image topic, if the bag has several')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                        help='format of OUT_BAG [mcap]')
    parser.add_argument('--maps', action='store_true',
                        help='write the uncertainty map (32FC1) and the confidence (mono8) too')
    parser.add_argument('--views', action='store_true', help='write heatmap and overlay too')
    parser.add_argument('--force', action='store_true', help='replace OUT_BAG if it is a bag')
    add_settings(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """
    Replay; see the module.

    Returns
    -------
    int
        0, bad frames or not: they are in the output as not confident.

    Raises
    ------
    UncertaintySegError
        If a bag, the model or a setting cannot be used, or the input broke off.

    """
    settings = settings_from_args(args, SETTINGS)
    start_s = time.perf_counter()
    report = replay_bag(
        args.in_bag, args.out_bag, settings, args.topic, args.storage,
        OutputChoice(args.maps, args.views), is_overwriting=args.force,
    )
    for problem in report.problems:
        print(f'bad {problem}', file=sys.stderr)
    print(f'{report.num_frames} frames, {report.num_confident} confident, {report.num_bad} bad, '
          f'in {time.perf_counter() - start_s:.1f} s -> {args.out_bag}')
    print_json({'verb': 'replay', 'in_bag': args.in_bag, 'out_bag': args.out_bag,
                **dataclasses.asdict(report)})
    if report.broke_off:
        kept = f'the {report.num_frames} frames before it are in {args.out_bag}'
        raise BagError(f'{report.broke_off} Input ended early; {kept}')
    return 0

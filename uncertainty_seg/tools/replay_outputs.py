# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write the result of one frame to a bag under the topics of the node.

No clock is read and no latency is written, so that a replay's bytes depend on its input alone.
Knows nothing of where frames come from.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import draw_flag, heatmap, overlay
from uncertainty_seg.storage.bags import BagImage, BagWriter, Status

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

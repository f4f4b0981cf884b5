# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the pipeline over every image of a bag.

It drops no frame. One that cannot be used is counted and written as not confident, with the
reason. If the input breaks off, the frames before it are kept and the report says so.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
import logging
from pathlib import Path
import sys

from tqdm import tqdm

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import heatmap_upper
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, BagError, ImageError
from uncertainty_seg.storage.bags import BadMessage, BagImage, BagReader, BagWriter
from uncertainty_seg.storage.ignore_mask import load_ignore_mask
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools.replay_outputs import (
    MASKS_ONLY,
    OutputChoice,
    write_result,
    write_verdict,
)

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

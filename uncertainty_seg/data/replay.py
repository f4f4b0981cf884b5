# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the model over a recorded bag and write what the node would have published.

It runs the node's pipeline over every image, without ROS. Outputs have the stamps of their images;
the same bag, model and seed give the same bytes. In a folder of pictures the stamp is the position
in seconds, and the frame id is the picture's name. An unusable frame is counted, reported and
written as not confident.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from uncertainty_seg.backends.opening import checked_settings, offline_settings
from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop, Outcome, PhotographJudge
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.status import NODE_NAME, verdict_numbers, verdict_status
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bags.reader import BadMessage, BagImage, BagReader
from uncertainty_seg.storage.bags.writer import (
    BagWriter,
    diagnostics_message,
    LATEST_NS,
    numbers_message,
    value_message,
)
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.frame_sources import (
    BadFrame,
    find_sources,
    is_bag,
    PICTURE_STEP_NS,
    read_source,
    SourceFrame,
)
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.progress import progress

# Most reasons of bad frames in a report.
_PROBLEMS_KEPT = 5


@dataclass
class ReplayReport:
    """
    What a replay did.

    Attributes
    ----------
    topic, model, backend : str
        Image topic; model and backend that judged the images.
    passes : int
        T.
    num_frames, num_bad, num_confident : int
        Image messages; those that were unusable; those with a true flag.
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


def replay(
    in_bag: Path | str,
    out_bag: Path | str,
    *,
    settings: Settings | None = None,
    topic: str | None = None,
    storage: str = 'mcap',
    maps: bool = False,
    views: bool = False,
    force: bool = False,
) -> ReplayReport:
    """
    Run the model over a recorded bag and write what the node would have published.

    Parameters
    ----------
    in_bag, out_bag : Path or str
        Bag with images, or folder of images; bag to write.
    settings : Settings, optional
        Model, backend, T, seed and so on; default: the node's defaults.
    topic : str, optional
        Image topic, if the bag has several.
    storage : str
        Format of `out_bag`: 'mcap' or 'sqlite3'.
    maps, views : bool
        Also write uncertainty, unknown and confidence maps; also write heatmap and overlay.
    force : bool
        Replace an existing bag `out_bag`.

    Returns
    -------
    ReplayReport
        Counts, and the reasons of bad frames.

    Raises
    ------
    UncertaintySegError
        If a bag, the model or a setting cannot be used. Nothing is written then.

    """
    settings, in_bag, out_bag = checked_settings(settings), Path(in_bag), Path(out_bag)
    if in_bag.resolve().is_relative_to(out_bag.resolve()):
        raise BagError(f'{out_bag} is both input and output', 'two bags', 'name another output')
    writer = BagWriter(out_bag, storage, overwrite=force)
    with _opened(in_bag, topic) as (topic, num_images, images):
        bundle = load_bundle(settings.model, trusted_keys=settings.trusted_keys)
        pipeline = open_pipeline(bundle, offline_settings(bundle, settings),
                                 load_ignore_mask(settings.ignore_mask))
        with pipeline, writer:
            replay = _Replay(writer, pipeline, topic, maps, views)
            bar = progress(replay.frames(images), desc='replay', total=num_images)
            for _ in bar:
                bar.set_postfix(bad=replay.report.num_bad, refresh=False)
    return replay.report


@contextmanager
def _opened(
    place: Path, topic: str | None
) -> Iterator[tuple[str, int, Iterator[BagImage | BadMessage]]]:
    """Open a bag or a folder of pictures (topic ''); yield topic, number and images."""
    sources = find_sources([place], [], []) if place.is_dir() and not is_bag(place) else []
    if sources and all(source.kind == 'folder' for source in sources):
        if topic is not None:
            raise BagError(f'the topic {topic} of the pictures in {place}', 'a bag')
        yield '', sum(source.num_frames for source in sources), (
            _photograph(frame) for source in sources for frame in read_source(source))
        return
    with BagReader(place) as bag:
        topic = bag.image_topic(topic)
        yield topic, bag.count(topic), bag.images(topic)


def _photograph(frame: SourceFrame | BadFrame) -> BagImage | BadMessage:
    stamp_ns = frame.index * PICTURE_STEP_NS
    if isinstance(frame, BadFrame):
        return BadMessage('', stamp_ns, frame.reason)
    return BagImage('', stamp_ns, stamp_ns, Path(frame.file).stem, frame.raw)


class _Replay:
    """Runs the frames of a bag through the frame loop, and counts."""

    def __init__(
        self, writer: BagWriter, pipeline: Pipeline, topic: str, has_maps: bool, has_views: bool
    ) -> None:
        self._writer, self._pipeline = writer, pipeline
        self._has_maps, self._has_views = has_maps, has_views
        # Pictures on a disk have no clock, and are judged as in `score`.
        self._is_of_camera = bool(topic)
        settings = pipeline.settings
        self._loop = FrameLoop(
            pipeline, guard=FrameGuard(settings), timeout_s=settings.stale_timeout_s) if topic \
            else FrameLoop(pipeline, PhotographJudge(pipeline), measures_damaged=True)
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
            self._write(self._loop.refuse(item.reason), item)
            return
        pipeline = self._pipeline
        is_of_receipt, received_ns = pipeline.settings.stamps == 'receipt', item.received_ns
        outcome = self._loop.take(
            lambda: decode(item.raw, pipeline.settings.decode_limits),
            received_ns if is_of_receipt else item.stamp_ns,
            clock_ns=(lambda: received_ns) if self._is_of_camera else None)
        if outcome is not None and outcome.result is not None:
            assert outcome.image_bgr is not None
            view = FrameView(outcome.image_bgr, outcome.result, pipeline.card, pipeline.settings,
                             pipeline.calibrated)
            self._write_view(item, view)
        self._write(outcome, item)

    def _write(self, outcome: Outcome | None, item: BagImage | BadMessage) -> None:
        assert outcome is not None  # this judge is never stopped
        report = self.report
        report.num_confident += outcome.verdict.is_confident
        if outcome.problem:
            report.num_bad += 1
            if len(report.problems) < _PROBLEMS_KEPT:
                report.problems.append(f'frame {report.num_frames}: {outcome.problem}')
        write_verdict(self._writer, outcome, self._pipeline, item)

    def _write_view(self, item: BagImage, view: FrameView) -> None:
        def write(name: str, array: NDArray[Any], encoding: str) -> None:
            self._writer.write_image(
                f'{NODE_NAME}/{name}', item.stamp_ns, item.frame_id, array, encoding,
                item.received_ns)

        write('mask', view.mask, 'mono8')
        if self._has_maps:
            write('uncertainty', view.uncertainty, '32FC1')
            write('unknown', view.unknown, '32FC1')
            write('confidence', view.confidence, 'mono8')
        if self._has_views:
            write('heatmap', view.heatmap, 'bgr8')
            write('overlay', view.overlay, 'bgr8')


def write_verdict(
    writer: BagWriter, outcome: Outcome, pipeline: Pipeline, item: BagImage | BadMessage
) -> None:
    """
    Write flag, numbers, score and status of a frame, usable or not.

    As in the node, the numbers never promise more than the flag: they follow a true flag and
    precede a false one. A message that cannot be read has no header: its arrival time is its
    stamp, and its numbers are marked as of no frame.
    """
    is_of_frame = isinstance(item, BagImage)
    stamp_ns, frame_id = ((item.stamp_ns, item.frame_id) if isinstance(item, BagImage)
                          else (min(item.received_ns, LATEST_NS), ''))
    verdict, received_ns = outcome.verdict, item.received_ns
    numbers = verdict_numbers(verdict, outcome.result, is_of_frame, pipeline.weakened_by)
    pair = [('confident', value_message(verdict.is_confident)),
            ('verdict', numbers_message(stamp_ns, frame_id, numbers))]
    for name, message in pair if verdict.is_confident else pair[::-1]:
        writer.write(f'{NODE_NAME}/{name}', message, received_ns)
    writer.write(f'{NODE_NAME}/score', value_message(verdict.score_ratio), received_ns)
    status = verdict_status(verdict, outcome.result, pipeline.thresholds, has_latency=False,
                            weakened_by=pipeline.weakened_by, stamps=pipeline.settings.stamps)
    writer.write(f'{NODE_NAME}/status', diagnostics_message(stamp_ns, (status,), frame_id),
                 received_ns)

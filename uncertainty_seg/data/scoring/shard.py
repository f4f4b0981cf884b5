# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score one shard: every frame of one source, in order, into one part of the table.

The same function runs here, in another process and on a cluster. A gate starts anew with each
shard, and for each dive and camera of a log; it sees its frames one after the other. Nothing of
another shard moves a row.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.backends.opening import offline_settings
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.arrays import FloatMap, ImageU8
from uncertainty_seg.core.calibration import calibration_to_json, mask_digest
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.scores.vector import class_keys, ScoreVector
from uncertainty_seg.core.settings import Settings, settings_to_dict
from uncertainty_seg.data.scoring.embedding import embedding_length, Embeddings, frame_embedding
from uncertainty_seg.data.selection.frame_features import frame_features, num_features
from uncertainty_seg.errors import (
    BagError,
    FrameLogError,
    ModelBundleError,
)
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.frame_sources import (
    BadFrame,
    FrameSource,
    read_source,
    SourceFrame,
)
from uncertainty_seg.storage.model_bundle import lasting_name, load_bundle, model_digest
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.score_rows import ScoreRow, ScoreWriter, TableInfo

NUM_PROBLEMS_KEPT = 5
# What moves no row.
_OF_THE_MACHINE = ('threads',)


@dataclass(frozen=True)
class ShardJob:
    """
    One shard to score.

    Attributes
    ----------
    source : FrameSource
        What to read.
    part : Path
        Where its rows go.
    stride : int
        Each `stride`-th frame is scored.
    settings : Settings
        Of the run.
    info : TableInfo
        Of the table.
    fingerprint : str
        Of all that moves a row; another one, and the part is of something else.
    folder : str
        Where relative paths begin, on every machine.

    """

    source: FrameSource
    part: Path
    stride: int
    settings: Settings
    info: TableInfo
    fingerprint: str
    folder: str = '.'


@dataclass
class ShardReport:
    """
    What became of a shard.

    Attributes
    ----------
    part, source, kind, topic, dive : str
        File of its rows, empty if it has none; where the frames came from.
    fingerprint : str
        That of the job.
    num_frames, num_bad, num_lost, num_confident : int
        Rows; frames that could not be used; frames that the index of the bag names and that were
        not there; rows with the flag up.
    problems : list of str
        The reasons of the first bad frames.
    broke_off : str
        Why the source ended early; empty if it did not.

    """

    part: str
    source: str
    kind: str
    topic: str
    dive: str
    fingerprint: str
    num_frames: int = 0
    num_bad: int = 0
    num_lost: int = 0
    num_confident: int = 0
    problems: list[str] = field(default_factory=list)
    broke_off: str = ''


class ShardEngine:
    """
    The opened model, for shard after shard.

    Raises UncertaintySegError if bundle, backend and settings do not fit.

    Parameters
    ----------
    settings : Settings
        Model, backend, T, seed and so on.

    """

    def __init__(self, settings: Settings) -> None:
        self._bundle = load_bundle(settings.model, trusted_keys=settings.trusted_keys)
        settings = offline_settings(self._bundle, settings)
        self._ignore = load_ignore_mask(settings.ignore_mask)
        calibration = self._bundle.calibration
        self._scorer = ScoreVector(
            self._bundle.card, calibration.pixel_limits if calibration else None,
            calibration.density if calibration else None, features=self._bundle.features)
        self._backend = open_backend(settings.backend, self._bundle, settings)
        # What `auto` found here holds for every shard of the table.
        self.settings = replace(settings, backend=self._backend.name)
        try:
            pipeline = self.pipeline()
            pipeline.check_masks()
            self.info = self._info(pipeline)
        except BaseException:
            self.close()
            raise

    def pipeline(self) -> Pipeline:
        """Return a pipeline whose gate has seen nothing."""
        return Pipeline(self._bundle, self._backend, self.settings, ignore=self._ignore,
                        scorer=self._scorer)

    @property
    def card(self) -> ModelCard:
        """Return the card of the bundle."""
        return self._bundle.card

    def fingerprint(self, source: FrameSource, stride: int) -> str:
        """Return a digest of all that moves a row of a source."""
        calibration = self._bundle.calibration
        says = {
            'source': asdict(source), 'stride': stride,
            'info': asdict(replace(self.info, model='')),
            'calibration': calibration_to_json(calibration) if calibration else '',
            'ignore': mask_digest(self._ignore),
        }
        return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()[:32]

    def embedding(self, result: FrameResult) -> Embeddings | None:
        """Return that of the frame that was measured last, without its padding."""
        features = self._last_features() if result.maps.features is None else result.maps.features
        if features is None:
            return None
        part = result.maps.with_features(features).cut(
            result.geometry.rows, result.geometry.columns)
        assert part.features is not None  # as given
        return frame_embedding(part.features)

    def _last_features(self) -> FloatMap | None:
        """Return what the trunk made of the last frame, where the runtime keeps it."""
        last: Callable[[], FloatMap | None] = getattr(
            self._backend, 'last_features', lambda: None)
        return last()

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _info(self, pipeline: Pipeline) -> TableInfo:
        card = pipeline.card
        settings = {name: value for name, value in settings_to_dict(self.settings).items()
                    if name not in _OF_THE_MACHINE}
        del settings['model']  # it has a field of its own
        if self._bundle.calibration is not None:
            del settings['uncalibrated']  # it changes nothing then
        return TableInfo(
            lasting_name(self.settings.model), model_digest(card), card.class_names, card.palette,
            pipeline.passes, self.settings.seed, self._scorer.names,
            num_features(card.num_classes), _as_json(settings),
            embedding_length(self._num_channels()))

    def _num_channels(self) -> int:
        """Return D of the trunk's features, 0 if there are none; after a first frame."""
        if self.card.feature_shape is not None:
            return self.card.feature_shape[0]
        found = self._last_features()
        return 0 if found is None else found.shape[1]


def score_shard(
    job: ShardJob, engine: ShardEngine, on_frame: Callable[[int], None] | None = None
) -> ShardReport:
    """
    Score the frames of a source and write its part.

    Raises ModelBundleError if the engine is of another model than the job: another machine has
    other files; TableError if the part cannot be written.

    Parameters
    ----------
    job : ShardJob
        What to do.
    engine : ShardEngine
        Opened for the settings of the job.
    on_frame : callable, optional
        Told how many frames are done, bad ones included, after each.

    Returns
    -------
    ShardReport
        With rows, or `part` is empty: no frame could be used.

    """
    if engine.fingerprint(job.source, job.stride) != job.fingerprint:
        raise ModelBundleError(
            f'model {job.settings.model!r} or its calibration is another one in this process',
            'the same files on every machine', 'install the same bundle, or give a shared path')
    source = job.source
    report = ShardReport(job.part.name, source.path, source.kind, source.topic, source.dive,
                         job.fingerprint)
    try:
        with ScoreWriter(job.part, job.info) as writer:
            shard = _Shard(engine, job, report, writer)
            shard.read(on_frame)
            if not report.num_frames:
                raise _NoRowsError
            writer.note(asdict(report))
    except _NoRowsError:
        report.part = ''
    return report


class _NoRowsError(Exception):
    """Leaves the part unwritten."""


class _Shard:
    """The frames of a source; a loop for each camera of each dive, since a log mixes them."""

    def __init__(
        self, engine: ShardEngine, job: ShardJob, report: ShardReport, writer: ScoreWriter
    ) -> None:
        self._engine, self._job, self._report = engine, job, report
        self._writer = writer
        self._loops: dict[tuple[str, str], FrameLoop] = {}
        self._keys = class_keys(engine.card)

    def read(self, on_frame: Callable[[int], None] | None) -> None:
        report, source = self._report, self._job.source
        num_seen = 0
        try:
            for item in read_source(source, self._job.stride):
                num_seen = item.index + 1
                self._take(item)
                if on_frame:
                    on_frame(report.num_frames + report.num_bad)
        except (BagError, FrameLogError, OSError) as err:
            report.broke_off = ' '.join(str(err).split())
            report.num_lost = max(0, source.num_frames - num_seen)

    def _take(self, item: SourceFrame | BadFrame) -> None:
        if isinstance(item, BadFrame):
            # The flag falls, as it does in the node; of every camera if nobody knows of which.
            loops = list(self._loops.values())
            if item.dive is not None and item.topic is not None:
                loops = [self._loop_of(item.dive, item.topic)]
            for loop in loops:
                loop.refuse(item.reason)
            self._count_bad(item, item.reason)
            return
        received_ns, stamp_ns = item.received_ns, item.stamp_ns
        if received_ns is not None and self._engine.settings.stamps == 'receipt':
            stamp_ns = received_ns
        outcome = self._loop_of(item.dive, item.topic).take(
            lambda: decode(item.raw, self._job.settings.decode_limits), stamp_ns,
            clock_ns=None if received_ns is None else lambda: received_ns)
        assert outcome is not None  # nobody stops this judge
        if outcome.result is None or outcome.image_bgr is None:
            self._count_bad(item, outcome.problem)
            return
        self._report.num_frames += 1
        self._report.num_confident += outcome.verdict.is_confident
        self._writer.add(self._row(item, outcome.image_bgr, outcome.result))

    def _loop_of(self, dive: str, topic: str) -> FrameLoop:
        if (dive, topic) not in self._loops:
            self._loops[dive, topic] = FrameLoop(
                self._engine.pipeline(), guard=FrameGuard(self._engine.settings))
        return self._loops[dive, topic]

    def _count_bad(self, item: SourceFrame | BadFrame, reason: str) -> None:
        self._report.num_bad += 1
        if len(self._report.problems) < NUM_PROBLEMS_KEPT:
            self._report.problems.append(f'frame {item.index}: {" ".join(reason.split())}')

    def _row(self, item: SourceFrame, image: ImageU8, result: FrameResult) -> ScoreRow:
        source, scores, verdict = self._job.source, result.scores, result.verdict
        label = result.label_at_source()
        height, width = label.shape
        counts = np.bincount(label.ravel(), minlength=len(self._keys))
        shares = (counts / label.size).tolist()
        features = frame_features(image, shares, [scores[f'entropy.{key}'] for key in self._keys],
                                  [scores[f'mutual_information.{key}'] for key in self._keys])
        return ScoreRow(
            item.dive, source.path, source.kind, item.topic, item.index, item.stamp_ns,
            height, width, verdict.is_confident, verdict.kind, verdict.score_ratio,
            [scores[name] for name in self._job.info.score_names], shares,
            perceptual_hash(image), features, source.run, self._engine.embedding(result),
            item.file)


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as they come back from JSON: tuples become lists."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found

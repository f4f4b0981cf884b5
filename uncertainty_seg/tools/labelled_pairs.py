# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Open a bundle's pipeline over a folder of labelled images, for the verbs that measure.

It joins what the rooms below may not join: folders on disk, a runtime, and the pipeline.

"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib

import cv2
from tqdm import tqdm

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.evaluation import evaluate, Evaluation
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import LabelledFolder

Pair = tuple[ImageU8, LabelMap]


def bgr_pairs(bundle: ModelBundle, data: LabelledFolder) -> list[Pair]:
    """
    Return (BGR image, mask) pairs of a folder that has the bundle's classes.

    Raises
    ------
    DatasetError
        If the class names differ.

    """
    if data.class_names != bundle.card.class_names:
        raise DatasetError(f'the folder has the classes {data.class_names}',
                           f'those of {bundle.card.name!r}, {bundle.card.class_names}')
    images = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in data.images]
    return list(zip(images, data.masks, strict=True))


def measure(
    bundle: ModelBundle,
    settings: Settings,
    pairs: Sequence[Pair],
    temperature: float | None,
    title: str,
) -> Evaluation:
    """Evaluate pairs at a temperature, or at the calibrated one if None, with a progress bar."""
    backend = open_backend(settings.backend, bundle, settings)
    pipeline = Pipeline(bundle, backend, settings, temperature=temperature)
    try:
        return evaluate(pipeline, tqdm(pairs, desc=title), bundle.card.ignore_index)
    finally:
        pipeline.close()


def data_digest(data: LabelledFolder) -> str:
    """Return one digest over the names and pixels of a set."""
    digest = hashlib.sha256()
    for stem, image, mask in zip(data.stems, data.images, data.masks, strict=True):
        digest.update(stem.encode())
        digest.update(image.tobytes())
        digest.update(mask.tobytes())
    return digest.hexdigest()

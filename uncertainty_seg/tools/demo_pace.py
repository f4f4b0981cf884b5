# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Find how fast a dive may be played so that the node on this computer takes every frame."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path
import statistics
import time

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.bags import read_images
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.tools.demo_timeline import IMAGE_TOPIC

NUM_FRAMES = 5
# The node shares the computer with player and recorder, and draws pictures for the latter.
HEADROOM = 0.55


def find_pace(settings: Settings, dive: Path, rate_hz: float) -> float:
    """
    Time the pipeline on the first frames of a dive.

    Parameters
    ----------
    settings : Settings
        Model, backend, threads.
    dive : Path
        Bag of the dive.
    rate_hz : float
        Frames a second of the dive.

    Returns
    -------
    float
        At most 1, the dive's own time.

    """
    images = [decode(item.raw) for item in islice(read_images(dive, IMAGE_TOPIC), NUM_FRAMES)]
    pipeline = open_pipeline(load_bundle(settings.model), settings)
    seconds = []
    with closing(pipeline):
        for k, image in enumerate(images):
            start_s = time.perf_counter()
            pipeline.measure(image, k)
            seconds.append(time.perf_counter() - start_s)
    return min(1.0, HEADROOM / (statistics.median(seconds) * rate_hz))

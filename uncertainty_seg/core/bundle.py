# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A model bundle once it has been read and checked: what backends and pipeline are given.

Reading it from disk is `storage.model_bundle`'s.

"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.core.model_card import ModelCard

TRUNK_FILE = 'trunk.onnx'
HEAD_FILE = 'head.onnx'
HEAD_STATS_FILE = 'head_stats.onnx'
CARD_FILE = 'card.json'
CALIBRATION_FILE = 'calibration.json'


@dataclass(frozen=True)
class ModelBundle:
    """
    A checked bundle.

    Attributes
    ----------
    folder : Path
        Where its files lie.
    card : ModelCard
        What it says of itself.
    calibration : Calibration or None
        Thresholds; None for a bundle that was compiled and not yet calibrated.

    """

    folder: Path
    card: ModelCard
    calibration: Calibration | None

    @property
    def trunk_path(self) -> Path:
        """Return the graph that runs once a frame."""
        return self.folder / TRUNK_FILE

    @property
    def head_path(self) -> Path:
        """Return the graph that runs T times a frame."""
        return self.folder / HEAD_FILE

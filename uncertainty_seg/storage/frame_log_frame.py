# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the frame log is given: of each frame that was processed, and of the run it was in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_files import ImageFile
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.parameters import Value
from uncertainty_seg.core.settings import MASK_POLICIES
from uncertainty_seg.storage.model_bundle import model_digest


@dataclass(frozen=True)
class LogFrame:
    """
    One frame that was processed.

    The log keeps references and looks at the arrays later, in its own thread: whoever offers a
    frame must not write into them any more, nor into what the two functions read.

    Attributes
    ----------
    stamp_ns : int
        The image's stamp; 0 if it has none, the time of the offer then counts.
    camera : str
        Name of the camera; windows, intervals and duplicates are by camera. Empty if only one.
    ros_frame : str
        frame_id of the header.
    image : ImageFile or ndarray of uint8, shape (H, W, 3)
        As received if it came compressed, else BGR.
    encoding : str
        Encoding of the message, for the sidecar: 'rgb8', 'jpeg'.
    verdict : Verdict
        Flag, reasons and worst score ratio.
    scores, thresholds : mapping of str to float
        Every score; limit of each gated one.
    mask : callable
        Returns class ids (H, W) of uint8 at the size of the image; called once, for kept frames
        only.
    uncertainty : callable
        Returns the published map (H, W) of float32, 0..1, larger is less certain, NaN kept.
    features : ndarray of float32, shape (D,), or None
        Of the trunk, where the backend gives them.
    held_bytes : int
        Memory that `mask` and `uncertainty` hold on to.

    """

    stamp_ns: int
    camera: str
    ros_frame: str
    image: ImageFile | ImageU8
    encoding: str
    verdict: Verdict
    scores: Mapping[str, float]
    thresholds: Mapping[str, float]
    mask: Callable[[], LabelMap]
    uncertainty: Callable[[], FloatMap]
    features: NDArray[np.float32] | None = None
    held_bytes: int = 0

    @property
    def is_flagged(self) -> bool:
        """
        Say whether the frame itself was over a limit or could not be judged.

        Not so while the gate only waits for more good frames; and it is so for a single bad
        frame that the hysteresis overlooks.
        """
        return not self.verdict.score_ratio <= 1.0

    @property
    def memory_bytes(self) -> int:
        """Return what it takes while it waits."""
        image = self.image
        size = len(image.data) if isinstance(image, ImageFile) else image.nbytes
        return size + self.held_bytes

    @property
    def log_weight(self) -> float:
        """Logarithm of its worst score ratio, which is 0.01 at least and 100 at most."""
        ratio = self.verdict.score_ratio
        return math.log(min(max(ratio, 0.01), 100.0)) if ratio == ratio else math.log(100.0)


@dataclass(frozen=True)
class LogAbout:
    """
    What is the same for all frames of a run.

    Attributes
    ----------
    dive : str
        Name of the run.
    model, model_sha256 : str
        Name of the bundle; digest of its graphs.
    class_names : tuple of str
        C names.
    palette : tuple of (int, int, int)
        RGB colour of each class.
    passes, seed, mask_policy : int, int, str
        As in the settings, T resolved.
    map_name : str
        Which uncertainty map is logged.
    parameters : mapping of str to bool, int, float, str or tuple of str
        All settings in force.

    """

    dive: str
    model: str
    model_sha256: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    passes: int
    seed: int = 0
    mask_policy: str = MASK_POLICIES[0]
    map_name: str = 'mutual_information'
    parameters: Mapping[str, Value] = field(default_factory=dict)


def about_run(
    dive: str, card: ModelCard, passes: int, parameters: Mapping[str, Value]
) -> LogAbout:
    """
    Describe a run.

    Parameters
    ----------
    dive : str
        Its name.
    card : ModelCard
        Of the bundle.
    passes : int
        T in use.
    parameters : mapping
        `core.settings.settings_to_dict` of the settings in force.

    Returns
    -------
    LogAbout
        For `FrameLog`.

    """
    def setting(name: str) -> Any:
        return parameters[name]

    return LogAbout(dive, card.name, model_digest(card), card.class_names, card.palette, passes,
                    setting('seed'), setting('mask_policy'), setting('map'), parameters)

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Make contact sheet and video of a dive in one walk through its bags."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
import sys

import cv2
from tqdm import tqdm

from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.tools.demo_frames import DemoFrame, iter_frames
from uncertainty_seg.tools.demo_report import Accuracy
from uncertainty_seg.tools.demo_sheet import choose_moments, draw_sheet
from uncertainty_seg.tools.demo_timeline import read_timeline, Timeline
from uncertainty_seg.tools.demo_video import DiveVideo


def make_pictures(
    dive: Path, outputs: Path, card: ModelCard, subtitle: str, sheet_path: Path, video_path: Path
) -> tuple[Timeline, Accuracy]:
    """
    Draw what happened.

    Parameters
    ----------
    dive, outputs : Path
        Bag of the dive; bag of what the node said.
    card : ModelCard
        Of the model that said it.
    subtitle : str
        For the sheet.
    sheet_path, video_path : Path
        A .png and an .mp4; replaced if they are there.

    Returns
    -------
    Timeline, Accuracy
        What happened, and how right the masks were.

    Raises
    ------
    UncertaintySegError
        If a bag cannot be read or a file cannot be written.

    """
    timeline = read_timeline(dive, outputs)
    accuracy = Accuracy(card.num_classes, card.ignore_index)
    wanted = {moment.stamp_ns for moment in choose_moments(timeline)}
    chosen: list[DemoFrame] = []
    frames = iter_frames(dive, outputs, timeline)
    first = next(frames)
    size = first.image.shape[0], first.image.shape[1]
    with DiveVideo(video_path, timeline, card, size) as video:
        for frame in tqdm(chain([first], frames), total=len(timeline.moments), desc='video',
                          unit='frame', file=sys.stderr, disable=None):
            video.add(frame)
            accuracy.add(frame)
            if frame.moment.stamp_ns in wanted:
                chosen.append(frame)
    if not cv2.imwrite(str(sheet_path), draw_sheet(chosen, timeline, card, subtitle)):
        raise UncertaintySegError(f'{sheet_path} cannot be written', 'a folder with room')
    return timeline, accuracy

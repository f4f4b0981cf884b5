# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames of frame logs as `LabelFrame`: image and mask as the vehicle stored them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from uncertainty_seg.errors import DatasetError, FrameLogError
from uncertainty_seg.storage.frame_log_format import iter_frames, LoggedFrame
from uncertainty_seg.storage.label_frames import decoded, LabelFrame, safe_name
from uncertainty_seg.storage.labelled_folder import ClassTable

IGNORE_INDEX = 255
_JPEG_START = b'\xff\xd8'
Item = TypeVar('Item')


@dataclass
class LeftOut:
    """
    What is not exported.

    Attributes
    ----------
    sentences : list of str
        Why; one may stand for many frames.
    frames : int
        How many.

    """

    sentences: list[str] = field(default_factory=list)
    frames: int = 0

    def add(self, sentence: object, frames: int = 1) -> None:
        """Note why some frames are left out."""
        self.sentences.append(str(sentence))
        self.frames += frames


@dataclass
class FrameFeed:
    """
    Frames to export.

    Attributes
    ----------
    classes : ClassTable
        Of all of them.
    frames : iterator of LabelFrame
        Read once.
    total : int
        How many there may be, for the progress bar.
    left_out : LeftOut
        Grows while frames are read.

    """

    classes: ClassTable
    frames: Iterator[LabelFrame]
    total: int
    left_out: LeftOut = field(default_factory=LeftOut)


def frames_of_logs(
    folders: Sequence[Path], has_uncertainty: bool, reasons: Sequence[str] = ()
) -> FrameFeed:
    """
    Open frame logs, also while they are being written: what is finished is read.

    Parameters
    ----------
    folders : sequence of Path
        The logs; those of several dives may be exported together.
    has_uncertainty : bool
        Read the uncertainty maps too.
    reasons : sequence of str
        Keep only frames that were kept for one of these; empty keeps all.

    Returns
    -------
    FrameFeed
        Dive by dive, in the order of the folders and of the frames. A frame whose image, mask or
        sidecar is missing or damaged is left out and said.

    Raises
    ------
    FrameLogError
        If a folder is no frame log.
    DatasetError
        If there is no frame in it, or frames have other classes than the first one.

    """
    problems: list[str] = []
    logged = [frame for folder in folders for frame in iter_frames(folder, problems)
              if not reasons or frame.sidecar.get('reason') in reasons]
    if not logged:
        kept = f' kept as {" or ".join(reasons)}' if reasons else ''
        first = f' ({problems[0].rstrip(".")})' if problems else ''
        raise DatasetError(f'{", ".join(map(str, folders))} holds no frame{kept}{first}',
                           'at least one finished frame')
    classes = classes_of(logged[0].sidecar)
    for frame in logged:
        if classes_of(frame.sidecar) != classes:
            raise DatasetError(f'{frame.folder} has other classes than {logged[0].folder}',
                               'one set of classes', 'export the logs of each model by themselves')
    logged = dive_by_dive(logged, _dive_of)
    left_out = LeftOut(problems, len(problems))
    frames = _logged_frames(logged, classes, has_uncertainty, left_out)
    return FrameFeed(classes, frames, len(logged), left_out)


def classes_of(sidecar: Mapping[str, Any]) -> ClassTable:
    """Return the classes of a frame's sidecar; `DatasetError` if they are not usable."""
    try:
        entries = sorted(sidecar['classes'], key=lambda entry: int(entry['id']))
        palette = tuple((int(r), int(g), int(b)) for r, g, b in
                        (entry['color_rgb'] for entry in entries))
        names = tuple(str(entry['name']) for entry in entries)
        ids = [int(entry['id']) for entry in entries]
    except (KeyError, TypeError, ValueError) as err:
        raise DatasetError(f'classes of frame {sidecar.get("frame_id")!r} are damaged ({err!r})',
                           'id, name and color_rgb of each') from err
    if ids != list(range(len(ids))):
        raise DatasetError(f'frame {sidecar.get("frame_id")!r} has class ids {ids}',
                           'all from 0 on')
    return distinct_classes(names, palette)


def distinct_classes(
    names: tuple[str, ...], palette: tuple[tuple[int, int, int], ...]
) -> ClassTable:
    """Return a table of classes; `DatasetError` if a name comes twice: tools go by the name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise DatasetError(f'class names {", ".join(names) or "of nothing"}',
                           'each name once', 'compile the bundle with names that differ')
    return ClassTable(names, palette, IGNORE_INDEX)


def dive_by_dive(items: Iterable[Item], dive_of: Callable[[Item], str]) -> list[Item]:
    """Return items in the order they have, but those of a dive in a row, behind its first."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(dive_of(item), []).append(item)
    return [item for group in groups.values() for item in group]


def stem_of(dive: str, name: str) -> str:
    """Return the name of a frame's files, which tells the dive."""
    return f'{safe_name(dive)}_{safe_name(name)}'


def image_ending(data: bytes) -> str:
    """Return '.jpg' or '.png' by what a file begins with."""
    return '.jpg' if data.startswith(_JPEG_START) else '.png'


def _logged_frames(
    logged: Sequence[LoggedFrame], classes: ClassTable, has_uncertainty: bool, left_out: LeftOut
) -> Iterator[LabelFrame]:
    for entry in logged:
        try:
            yield _logged_frame(entry, classes, has_uncertainty)
        except (FrameLogError, DatasetError) as err:
            if entry.folder.exists():  # else its log evicted it while we were reading
                left_out.add(err)


def _logged_frame(entry: LoggedFrame, classes: ClassTable, has_uncertainty: bool) -> LabelFrame:
    sidecar, path = entry.sidecar, entry.image_path
    try:
        data = path.read_bytes()
    except OSError as err:
        raise FrameLogError(f'{path} cannot be read ({err.strerror})') from err
    mask = entry.read_mask()
    require_mask(mask, decoded(data, str(path)).shape[:2], classes, str(entry.mask_path))
    ratio = sidecar.get('verdict', {}).get('score_ratio')
    dive = _dive_of(entry)
    return LabelFrame(
        stem=stem_of(dive, entry.frame_id), key=entry.frame_id, dive=dive,
        camera=str(sidecar.get('camera', '')),
        stamp_ns=int(sidecar['stamp_ns']), frame_id=str(sidecar.get('ros_frame', '')),
        image_file=data, ending=image_ending(data), mask=mask,
        uncertainty=entry.read_uncertainty() if has_uncertainty else None,
        reason=_reason(sidecar), score=float('nan') if ratio is None else float(ratio))


def _dive_of(entry: LoggedFrame) -> str:
    return str(entry.sidecar.get('dive') or entry.folder.parents[1].name)


def require_mask(mask: Any, shape: tuple[int, ...], classes: ClassTable, source: str) -> None:
    """Refuse a mask of another size than its image, or with an id that is no class."""
    if mask.shape != shape:
        raise DatasetError(f'{source} is {mask.shape[1]}x{mask.shape[0]}',
                           f'the {shape[1]}x{shape[0]} of its image')
    strange = (mask >= len(classes.names)) & (mask != classes.ignore_index)
    if strange.any():
        raise DatasetError(f'{source} has the class id {mask[strange][0]}',
                           f'0 to {len(classes.names) - 1}')


def _reason(sidecar: Mapping[str, Any]) -> str:
    """Return why a frame was kept, with the gate's own words where there are some."""
    words = [str(word) for word in sidecar.get('verdict', {}).get('reasons') or ()]
    return ': '.join([str(sidecar.get('reason', '')), '; '.join(words)]).strip(': ')

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A mask as one region for each class, and regions of a labelling tool as a mask.

The class of a pixel without region is unknown; of overlapping regions the last one counts, so that
a labeller may paint over a region without erasing it.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.data.labels.frames import FrameRow
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import ClassTable

BoolMask = NDArray[np.bool_]
# What a class becomes in a tool: a mask, a mask for each part, a polygon for each part.
MASKS, INSTANCES, POLYGONS = 'masks', 'instances', 'polygons'
SHAPES = (MASKS, INSTANCES, POLYGONS)
# The class of Pascal VOC's void, as datumaro calls it: a label of this name is of unknown pixels.
VOID_NAME = 'ignored'
# Each takes as long as painting the whole image may.
MAX_REGIONS = 10_000
# 150 MB in pycocotools.
MAX_OUTLINE_PX = 2**20
# What is raised by a file that has another form than that of its format.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def damage(err: Exception) -> str:
    """Return what is wrong with a file in words: Python's message names its own types."""
    if isinstance(err, KeyError) and err.args:
        return f'"{err.args[0]!s:.40}" is missing'
    return 'a value is of another type, or out of range'


@dataclass(frozen=True)
class Region:
    """
    The pixels of one class in one frame.

    Attributes
    ----------
    class_id : int
        0..C-1.
    pixels : ndarray of bool, shape (H, W)
        True where the class is; never empty.
    left, top, right, bottom : int
        Their bounding box in pixels; right and bottom belong to it.

    """

    class_id: int
    pixels: BoolMask
    left: int
    top: int
    right: int
    bottom: int

    @property
    def crop(self) -> BoolMask:
        """Return the pixels of the box."""
        return self.pixels[self.top:self.bottom + 1, self.left:self.right + 1]


class Labelled(NamedTuple):
    """
    The labels of a frame, as a tool gives them back.

    Attributes
    ----------
    stem : str
        Name of the frame's files.
    mask : ndarray of uint8, shape (H, W)
        Class ids, and the ignore index where the class is unknown.
    mark : str
        What in the file says that a person has finished the frame; empty if nothing does.
    labeller : str
        Who labelled it; empty if the file does not say.
    has_polygons : bool
        Whether outlines were drawn, so that the same mask may differ by their pixels.

    """

    stem: str
    mask: LabelMap
    mark: str = ''
    labeller: str = ''
    has_polygons: bool = False


def regions_of(mask: LabelMap, num_classes: int) -> Iterator[Region]:
    """Yield a region for each class in a mask, ids ascending."""
    for class_id in np.unique(mask):
        if class_id < num_classes:
            pixels = mask == class_id
            rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
            yield Region(int(class_id), pixels, int(columns[0]), int(rows[0]),
                         int(columns[-1]), int(rows[-1]))


def parts_of(mask: LabelMap, num_classes: int) -> Iterator[Region]:
    """Yield a region for each part of a class that hangs together by the sides of its pixels."""
    for class_id, part, pixels in _parts(mask, num_classes):
        whole = np.zeros(mask.shape, np.bool_)
        left, top, width, height = part
        whole[top:top + height, left:left + width] = pixels
        yield Region(class_id, whole, left, top, left + width - 1, top + height - 1)


@dataclass(frozen=True)
class Outline:
    """
    The outer outline of a part of a class.

    Attributes
    ----------
    class_id : int
        0..C-1.
    points : ndarray of float64, shape (n, 2)
        x, y; pixel i reaches from i to i + 1.
    area_px : float
        Inside of it, with its holes.

    """

    class_id: int
    points: NDArray[np.float64]
    area_px: float


def outlines_of(mask: LabelMap, num_classes: int) -> list[Outline]:
    """
    Return the outlines of all parts of a mask, the largest first.

    Painted in this order by `LabelCanvas` they give the mask again, apart from unknown pixels that
    a part surrounds, which become it: an outline has no hole, but what lies in one is smaller.
    """
    found = []
    for class_id, (left, top, _, _), pixels in _parts(mask, num_classes):
        # At twice the size an outline through the centres of pixels encloses all centres of ours.
        twice = np.repeat(np.repeat(pixels.astype(np.uint8), 2, 0), 2, 1)
        (ring,), _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        points = (ring.reshape(-1, 2) + 0.5) / 2 + (left, top)
        found.append(Outline(class_id, points, cv2.contourArea(ring) / 4))
    return sorted(found, key=lambda outline: -outline.area_px)


def _parts(
    mask: LabelMap, num_classes: int
) -> Iterator[tuple[int, tuple[int, int, int, int], BoolMask]]:
    """Yield class, box (left, top, width, height) and the pixels of the box of each part."""
    for class_id in np.unique(mask[mask < num_classes]).tolist():
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(
            (mask == class_id).astype(np.uint8), connectivity=4)
        for part in range(1, count):
            left, top, width, height, _ = boxes[part].tolist()
            yield class_id, (left, top, width, height), \
                parts[top:top + height, left:left + width] == part


class LabelCanvas:
    """
    The mask of a frame, into which the regions of a tool are painted.

    Parameters
    ----------
    row : FrameRow
        The frame, for its size and its name in errors.
    classes : ClassTable
        The only names that are accepted.

    """

    def __init__(self, row: FrameRow, classes: ClassTable) -> None:
        self.row = row
        self._num_regions = 0
        self._has_polygons = False
        self._ids = {name: index for index, name in enumerate(classes.names)}
        self._ignore_index = classes.ignore_index
        self._mask = np.full((row.height, row.width), classes.ignore_index, np.uint8)

    @property
    def mask(self) -> LabelMap | None:
        """Return the mask; None if every pixel is unknown: the frame was not labelled."""
        return self._mask if (self._mask != self._ignore_index).any() else None

    def labelled(self, mark: str = '', labeller: str = '') -> Iterator[Labelled]:
        """Yield the frame with what the file says of it, unless it was not labelled."""
        if self.mask is not None:
            yield Labelled(self.row.stem, self.mask, mark, labeller, self._has_polygons)

    def paint(self, name: str, pixels: BoolMask, left: int = 0, top: int = 0) -> None:
        """
        Assign pixels to a class.

        Raises DatasetError if the name is unknown or the box exceeds the frame.

        Parameters
        ----------
        name : str
            The class.
        pixels : ndarray of bool
            All of the frame, or a box of it.
        left, top : int
            Corner of the box.

        """
        class_id = self.class_id(name)
        height, width = pixels.shape
        self.require_part(height, width, left, top)
        self._num_regions += 1
        if self._num_regions > MAX_REGIONS:
            raise DatasetError(f'{self.row.file} has more than {MAX_REGIONS} regions', 'fewer',
                               'merge those of a class')
        self._mask[top:top + height, left:left + width][pixels] = class_id

    def paint_ids(self, mask: LabelMap) -> None:
        """
        Take a whole mask of class ids, (H, W) uint8, with the ignore index where nobody knows.

        Raises DatasetError if it has another size than the frame, or an id that is no class.
        """
        self.require_size(*mask.shape)
        names, unknown = list(self._ids), self._ignore_index
        strange = (mask >= len(names)) & (mask != unknown)
        if strange.any():
            raise DatasetError(f'the mask of {self.row.file} has the id {mask[strange][0]}',
                               f'0 to {len(names) - 1} ({", ".join(names)}), or {unknown} for '
                               'unknown')
        for region in regions_of(mask, len(names)):
            self.paint(names[region.class_id], region.pixels)

    def require_part(self, height: int, width: int, left: int = 0, top: int = 0) -> None:
        """Refuse a box that is no part of the frame, before its pixels are made."""
        if min(left, top) < 0 or min(height, width) < 1 or top + height > self.row.height \
                or left + width > self.row.width:
            shown = [f'{n!s:.20}' for n in (width, height, left, top)]
            raise DatasetError(
                f'a region of {self.row.file} is {shown[0]}x{shown[1]} at {shown[2]},{shown[3]}',
                f'a part of the {self.row.width}x{self.row.height} of the image',
                'label the images of the export in their own size')

    def paint_polygons(self, name: str, polygons: Sequence[ArrayLike]) -> None:
        """
        Assign the inside of polygons, as pycocotools draws them, to a class by its name.

        Each polygon is (n, 2) of x, y, or the same flat; pixel i reaches from i to i + 1. Raises
        DatasetError if the name is unknown, a polygon has fewer than 3 corners or one farther
        outside than the image is large, or their outlines are longer than `MAX_OUTLINE_PX`.
        """
        from pycocotools import mask as coco_mask

        if len(polygons) > MAX_REGIONS:
            raise DatasetError(f'a region of {self.row.file} has {len(polygons)} polygons',
                               f'at most {MAX_REGIONS}', 'export it as a mask')
        corners = [np.asarray(points, np.float64).reshape(-1) for points in polygons]
        if any(flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all() for flat in corners):
            raise DatasetError(f'a polygon of {self.row.file} has less than 3 corners',
                               'corners that are finite')
        self._require_outlines([flat.reshape(-1, 2) for flat in corners])
        self._has_polygons = True
        lists = [flat.tolist() for flat in corners]
        packed = coco_mask.frPyObjects(lists, self.row.height, self.row.width)
        self.paint(name, np.asarray(coco_mask.decode(coco_mask.merge(packed)), bool))

    def _require_outlines(self, polygons: Sequence[NDArray[np.float64]]) -> None:
        """Refuse what pycocotools, which makes a point for each fifth of a pixel, cannot bear."""
        size = np.array([self.row.width, self.row.height])
        for corners in polygons:
            far = corners[((corners < -size) | (corners > 2 * size)).any(1)]
            if len(far):
                raise DatasetError(
                    f'a polygon of {self.row.file} has a corner at {far[0, 0]:g},{far[0, 1]:g}',
                    f'corners in or near the {self.row.width}x{self.row.height} of the image',
                    'label the images of the export in their own size')
        length_px = sum(len(c) + float(np.abs(c - np.roll(c, 1, 0)).max(1).sum())
                        for c in polygons)
        if length_px > MAX_OUTLINE_PX:
            raise DatasetError(f'a region of {self.row.file} has an outline of {length_px:.0f} '
                               'pixels', f'at most {MAX_OUTLINE_PX}',
                               'export it as a mask instead of a polygon')

    def paint_box(self, name: str, left: float, top: float, right: float, bottom: float) -> None:
        """Assign a box to a class; coordinates as in `paint_polygons`."""
        self.paint_polygons(name, [[left, top, right, top, right, bottom, left, bottom]])

    def class_id(self, name: str) -> int:
        """Return the id of a class, or of unknown pixels; `DatasetError` if there is none."""
        if name not in self._ids and name == VOID_NAME:
            return self._ignore_index
        if name not in self._ids:
            raise DatasetError(f'{self.row.file} has the class {name!r}',
                               f'one of {", ".join(self._ids)}',
                               'rename the label, or export with a bundle that knows it')
        return self._ids[name]

    def require_size(self, height: int, width: int) -> None:
        """Refuse labels of an image of another size, with `DatasetError`."""
        if (height, width) != (self.row.height, self.row.width):
            raise DatasetError(f'the labels of {self.row.file} are {width}x{height}',
                               f'the {self.row.width}x{self.row.height} of its image',
                               'label the images of the export in their own size')


def run_lengths(flat: NDArray[Any]) -> list[int]:
    """Return the lengths of runs in a flat mask; the first is of False and may be 0."""
    steps = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    lengths = np.diff(np.concatenate(([0], steps, [flat.size]))).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def from_run_lengths(lengths: Sequence[int], height: int, width: int) -> BoolMask | None:
    """Undo `run_lengths`, row by row; None if they do not fill height times width pixels."""
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        return None
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)

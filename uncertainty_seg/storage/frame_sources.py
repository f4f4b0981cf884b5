# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames of a bag, a folder of pictures or a frame log, read alike.

A source is one topic of one bag, one folder, or one log; it is read in its own order from its
start. Where sources lie is found by `find_sources`; nothing is decoded here.

"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from uncertainty_seg.core.image_codec import RawImage
from uncertainty_seg.core.image_files import ImageFile
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bag_reader import BadMessage, bag_image, BagImage, BagReader
from uncertainty_seg.storage.frame_log_format import iter_frames, LoggedFrame
from uncertainty_seg.storage.labelled_folder import ENDINGS
from uncertainty_seg.storage.mcap_stream import MCAP_ENDING, stream_messages

# A picture has no stamp: its place in the order stands for seconds.
PICTURE_STEP_NS = 10**9


@dataclass(frozen=True)
class FrameSource:
    """
    What is read in one go.

    Attributes
    ----------
    path : str
        Bag, folder or log, as it was given or found below what was given.
    kind : str
        'bag', 'folder' or 'log'.
    topic : str
        Image topic of a bag; else empty.
    dive : str
        Name of the run.
    num_frames : int
        Frames that the index of the source names, readable or not; of a bag without an index,
        those that were found.
    digest : str
        Of the names, sizes and times of its files: another one, and it has changed.
    run : str
        What tells the run from others of its name: the path of the folder that names it,
        or `dive` itself if somebody gave that.
    is_dive_given : bool
        Somebody named the run: it holds against what a log says of its frames.

    """

    path: str
    kind: str
    topic: str
    dive: str = ''
    num_frames: int = 0
    digest: str = ''
    run: str = ''
    is_dive_given: bool = False


@dataclass(frozen=True)
class SourceFrame:
    """
    One frame, undecoded.

    Attributes
    ----------
    index : int
        Its place in the source, bad ones counted.
    stamp_ns : int
        Stamp of its header; of a picture, its place in seconds.
    topic, dive : str
        Of the source; a log knows those of each frame.
    raw : RawImage or ImageFile
        Its pixels.

    """

    index: int
    stamp_ns: int
    topic: str
    dive: str
    raw: RawImage | ImageFile


@dataclass(frozen=True)
class BadFrame:
    """
    A place in the source whose frame cannot be read.

    Attributes
    ----------
    index : int
        Its place in the source.
    reason : str
        Why.
    topic, dive : str or None
        As of a `SourceFrame`; None where nobody knows, since what says it is damaged.

    """

    index: int
    reason: str
    topic: str | None = None
    dive: str | None = None


def read_source(source: FrameSource, stride: int = 1) -> Iterator[SourceFrame | BadFrame]:
    """
    Read every frame of a source, or each `stride`-th.

    Parameters
    ----------
    source : FrameSource
        What to read; path, kind and topic suffice.
    stride : int
        Keep those whose index is a multiple of it.

    Yields
    ------
    SourceFrame or BadFrame
        In order. The frames of a bag without index, or behind a damaged part of an MCAP bag,
        are read too.

    Raises
    ------
    UncertaintySegError
        If the source is missing; or, after all that could be read, if a bag broke off.

    """
    read = _READERS[source.kind]
    for index, make in read(source):
        if index % stride == 0:
            yield make()


def frames_at(
    path: str, kind: str, topic: str, indices: Collection[int]
) -> Iterator[SourceFrame | BadFrame]:
    """
    Read some frames of a source, which a table names by `source`, `kind`, `topic` and `index`.

    Yields
    ------
    SourceFrame or BadFrame
        In the order of the source; those it does not have are left out.

    Raises
    ------
    UncertaintySegError
        If the source is missing or a bag broke off before the last of them.

    """
    last = max(indices, default=-1)
    source = FrameSource(path, kind, topic if kind == 'bag' else '')
    for index, make in _READERS[kind](source):
        if index in indices:
            yield make()
        if index >= last:
            return


_Items = Iterator[tuple[int, Callable[[], SourceFrame | BadFrame]]]


def _bag_frames(source: FrameSource) -> _Items:
    for index, item in enumerate(_bag_items(source)):
        if isinstance(item, BadMessage):
            yield index, _known(BadFrame(index, item.reason, item.topic, source.dive))
        else:
            frame = SourceFrame(index, item.stamp_ns, item.topic, source.dive, item.raw)
            yield index, _known(frame)


def _bag_items(source: FrameSource) -> Iterator[BagImage | BadMessage]:
    read = array('q')  # bag times, 8 bytes each
    try:
        with BagReader(source.path) as bag:
            for item in bag.images(source.topic):
                read.append(item.received_ns)
                yield item
        return
    except BagError:
        files = mcap_files(Path(source.path))
        if not files:
            raise
    broke_off, known = [], Counter(read)
    for file in files:
        try:
            for found in stream_messages(file, source.topic, known):
                yield found if isinstance(found, BadMessage) else bag_image(found)
        except BagError as err:
            broke_off.append(err)
    if broke_off:
        raise broke_off[0]


def mcap_files(bag: Path) -> list[Path]:
    """List the MCAP files of a bag that has them, in their order."""
    if bag.is_dir():
        # rosbag2 numbers them: ..._9.mcap comes before ..._10.mcap.
        return sorted(bag.glob(f'*{MCAP_ENDING}'), key=lambda path: (len(path.name), path.name))
    return [bag] if bag.suffix == MCAP_ENDING else []


def pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix in ENDINGS and not path.name.startswith('.'))


def _folder_frames(source: FrameSource) -> _Items:
    for index, path in enumerate(pictures(Path(source.path))):
        yield index, lambda path=path, index=index: _picture(  # type: ignore[misc]
            path, index, index * PICTURE_STEP_NS, '', source.dive)


def _log_frames(source: FrameSource) -> _Items:
    problems: list[str] = []
    index = 0
    for frame in iter_frames(source.path, problems):
        # Frames that are left out have their place too.
        for reason in problems:
            yield index, _known(BadFrame(index, reason))
            index += 1
        problems.clear()
        yield index, lambda frame=frame, index=index: _logged(  # type: ignore[misc]
            frame, index, source)
        index += 1
    for place, reason in enumerate(problems, index):
        yield place, _known(BadFrame(place, reason))


def _logged(frame: LoggedFrame, index: int, source: FrameSource) -> SourceFrame | BadFrame:
    sidecar = frame.sidecar
    dive = '' if source.is_dive_given else sidecar.get('dive')
    return _picture(frame.image_path, index, int(sidecar['stamp_ns']),
                    str(sidecar.get('camera', '')), str(dive or source.dive))


def _picture(
    path: Path, index: int, stamp_ns: int, topic: str, dive: str
) -> SourceFrame | BadFrame:
    try:
        return SourceFrame(index, stamp_ns, topic, dive, ImageFile(path.read_bytes()))
    except OSError as err:
        return BadFrame(index, f'{path} cannot be read ({err.strerror})', topic, dive)


def _known(item: SourceFrame | BadFrame) -> Callable[[], SourceFrame | BadFrame]:
    return lambda: item


_READERS: dict[str, Callable[[FrameSource], _Items]] = {
    'bag': _bag_frames, 'folder': _folder_frames, 'log': _log_frames,
}

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Find and read the frames of bags, folders of pictures and frame logs alike.

A source is one topic of one bag, one folder, or one log. `find_sources` searches folders: each is
a log or a bag, or contains bags and logs, or else pictures. `read_source` reads a source in its
order from the start. Nothing is decoded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
import errno
import hashlib
from itertools import islice
import os
from pathlib import Path
from typing import NamedTuple

from uncertainty_seg.core.bundle import CARD_FILE
from uncertainty_seg.core.image_codec import ImageFile, RawImage
from uncertainty_seg.errors import BagError, ConfigError, UncertaintySegError
from uncertainty_seg.storage.bags.reader import (
    BadMessage,
    bag_image,
    BagImage,
    BagReader,
    choose_image_topic,
    MCAP_ENDING,
    McapStream,
)
from uncertainty_seg.storage.bags.writer import METADATA_FILE
from uncertainty_seg.storage.foreign_files import is_text, read_image_file, why
from uncertainty_seg.storage.frame_log.format import (
    FRAMES_FOLDER,
    iter_frames,
    LoggedFrame,
    MANIFEST_FILE,
    SIDECAR_FILE,
)
from uncertainty_seg.storage.labelled_folder import ENDINGS
from uncertainty_seg.storage.model_bundle import shipped_bundles
from uncertainty_seg.storage.review_record import TABLE_FILE

BAG_ENDINGS = ('.mcap', '.db3', '.bag')
# Photographs in unsupported formats, and videos: they are reported as unread.
_OTHER_ENDINGS = ('.tif', '.tiff', '.bmp', '.webp', '.gif', '.heic', '.dng', '.cr2', '.nef',
                  '.arw', '.pgm', '.ppm', '.mp4', '.avi', '.mov', '.mkv')
# Folders of a labelled folder or an export that hold no photograph.
_OF_LABELS = ('masks', 'predictions')
_OF_A_LOST_DISK = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN,
                   errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EREMOTEIO)
# Pictures in a part of a table: a killed process loses at most this many.
PICTURES_A_SHARD = 500
# About this many images of a bag are read to find one by its stamp, within a quarter of a second
# of its expected bag time, or else within five seconds.
_READ_FOR_ONE, _REACHES_NS = 30, (250_000_000, 5_000_000_000)
# A picture has no stamp: its position counts as seconds.
PICTURE_STEP_NS = 10**9


@dataclass(frozen=True)
class FrameSource:
    """
    A topic of a bag, a folder of pictures, or a frame log: `kind` is 'bag', 'folder' or 'log'.

    `run` distinguishes runs of one name: the path of the folder that names it, or `dive` if that
    was given, which then has precedence over the dives that a log has. `num_frames` counts those
    in its index, readable or not. `digest` is of the names, sizes and times of its files. A large
    folder is split into several sources of `num_frames` pictures each, from number `first` on.
    """

    path: str
    kind: str
    topic: str
    dive: str = ''
    num_frames: int = 0
    digest: str = ''
    run: str = ''
    is_dive_given: bool = False
    first: int = 0


@dataclass(frozen=True)
class SourceFrame:
    """
    A frame, undecoded.

    `index` is its position in the source, unreadable frames included. The stamp is that of its
    header, or of a picture its position in seconds; `received_ns` is None in a folder or a log.
    `kept_as` is why a log kept it, one of its `REASONS`; `file` names a picture of a folder.
    """

    index: int
    stamp_ns: int
    topic: str
    dive: str
    raw: RawImage | ImageFile
    received_ns: int | None = None
    kept_as: str = ''
    file: str = ''


@dataclass(frozen=True)
class BadFrame:
    """
    A frame that cannot be read, and why; topic and dive are None if not readable either.

    `is_lost`: its disk or network failed, so that it may be readable another time.
    """

    index: int
    reason: str
    topic: str | None = None
    dive: str | None = None
    is_lost: bool = False


def read_source(source: FrameSource, stride: int = 1) -> Iterator[SourceFrame | BadFrame]:
    """
    Read every frame of a source, or those whose index is a multiple of `stride`, in order.

    Raises UncertaintySegError if the source is missing; after all readable frames, if a bag ends
    early or is damaged.
    """
    yield from (_frame(index, item, source)
                for index, item in enumerate(_items(source), source.first) if index % stride == 0)


@dataclass(frozen=True)
class Whereabouts:
    """
    Finds the sources of a table, which may have been moved since they were scored.

    The endings of a path, the longest first, are searched below `root`, if given, or else, if the
    path is missing, in the folders around `near`, the table.
    """

    near: Path
    root: Path | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a root that is not a folder."""
        if self.root is not None and not self.root.is_dir():
            raise ConfigError(f'root {self.root}', 'a folder that holds the sources')

    def find(self, path: str, holds: str = '') -> str:
        """Return where a source is that contains the file `holds`; if not found, the path."""
        given = Path(path)
        parts = [part for part in given.parts if part not in (given.anchor, '..')]
        around = [self.root] if self.root is not None else self.near.resolve().parents
        places = [folder.joinpath(*parts[i:]) for folder in around for i in range(len(parts))]
        if self.root is None:
            places.insert(0, given)
        return str(next((place for place in places if (place / holds).exists()), path))

    def find_bundle(self, model: str) -> str:
        """
        Return the path of a bundle, found like a source; if not found, the name itself.

        Only its digest shows whether it is the same one. In a table, the name of a shipped bundle
        never means another one, see `lasting_name`.
        """
        shipped = shipped_bundles()
        if model not in shipped:
            return self.find(model, CARD_FILE)
        return str(shipped[model]) if (Path(model) / CARD_FILE).is_file() else model


def frames_at(
    path: str, kind: str, topic: str, indices: Collection[int],
    files: Mapping[int, str] | None = None, stamps: Mapping[int, int] | None = None,
) -> Iterator[SourceFrame | BadFrame]:
    """
    Read the frames of a source with some indices, as in the columns of a score table.

    Indices that the source does not have are ignored. `files` has the names of pictures by index:
    such a picture is found by its name and keeps that index, whatever its position is now. Few
    frames of a bag are first looked up by `stamps`, by index; the rest is read in order. Raises
    UncertaintySegError if the source is missing, or a bag ends before the last of them.
    """
    if kind == 'folder' and files and all(files.get(index) for index in indices):
        there = {path.name: path for path in pictures(Path(path))}
        for index in sorted(indices):
            if files[index] in there:
                yield _picture(there[files[index]], index, index * PICTURE_STEP_NS, '', '',
                               file=files[index])
        return
    source, left = FrameSource(path, kind, topic if kind == 'bag' else ''), set(indices)
    if stamps and kind == 'bag' and _READ_FOR_ONE * len(left) < max(left, default=0):
        for index, image in _looked_up(source, {index: stamps[index] for index in sorted(left)}):
            left.remove(index)
            yield _frame(index, image, source)
    for index, item in enumerate(islice(_items(source), max(left, default=-1) + 1)):
        if index in left:
            yield _frame(index, item, source)


def _looked_up(source: FrameSource, stamps: Mapping[int, int]) -> Iterator[tuple[int, BagImage]]:
    """Find images of a bag by their stamps, near the bag times expected from images before."""
    with suppress(BagError, StopIteration), BagReader(source.path) as bag:
        first = next(item for item in bag.images(source.topic) if isinstance(item, BagImage))
        late_ns = first.received_ns - first.stamp_ns
        for index, stamp_ns in stamps.items():
            for reach_ns in _REACHES_NS:
                middle_ns = stamp_ns + late_ns
                near = bag.images(source.topic, (middle_ns - reach_ns, middle_ns + reach_ns))
                fit = [item for item in near
                       if isinstance(item, BagImage) and item.stamp_ns == stamp_ns]
                if len(fit) == 1:  # otherwise it is found by its index
                    late_ns = fit[0].received_ns - stamp_ns
                    yield index, fit[0]
                    break


# A message, a picture, a frame of a log, or the reason why a log's frame is unreadable.
_Item = BagImage | BadMessage | Path | LoggedFrame | str


def _items(source: FrameSource) -> Iterator[_Item]:
    if source.kind == 'bag':
        return _bag_items(source)
    if source.kind == 'log':
        return _log_items(source)
    end = source.first + source.num_frames if source.num_frames else None
    return iter(pictures(Path(source.path))[source.first:end])


def _frame(index: int, item: _Item, source: FrameSource) -> SourceFrame | BadFrame:
    if isinstance(item, BadMessage):
        return BadFrame(index, item.reason, item.topic, source.dive)
    if isinstance(item, BagImage):
        return SourceFrame(index, item.stamp_ns, item.topic, source.dive, item.raw,
                           item.received_ns)
    if isinstance(item, str):
        return BadFrame(index, item)
    if isinstance(item, Path):
        return _picture(item, index, index * PICTURE_STEP_NS, '', source.dive,
                        file=item.name if is_text(item.name) else '')
    sidecar = item.sidecar
    dive = '' if source.is_dive_given else sidecar.get('dive')
    return _picture(item.image_path, index, int(sidecar['stamp_ns']),
                    str(sidecar.get('camera', '')), str(dive or source.dive),
                    str(sidecar.get('reason', '')))


def _bag_items(source: FrameSource) -> Iterator[BagImage | BadMessage]:
    files = mcap_files(Path(source.path))
    with ExitStack() as stack:
        try:
            bag = stack.enter_context(BagReader(source.path))
        except BagError:
            if not files:
                raise
        else:
            yield from bag.images(source.topic)
            return
    broke_off = []
    for file in files:
        try:
            for found in McapStream(file).messages(source.topic):
                yield found if isinstance(found, BadMessage) else bag_image(found)
        except BagError as err:
            broke_off.append(err)
    if broke_off:
        raise broke_off[0]


def mcap_files(bag: Path) -> list[Path]:
    """List the MCAP files of a bag in order; empty if it has none."""
    if bag.is_dir():
        # rosbag2 numbers them: ..._9.mcap precedes ..._10.mcap.
        return sorted(bag.glob(f'*{MCAP_ENDING}'), key=lambda path: (len(path.name), path.name))
    return [bag] if bag.suffix == MCAP_ENDING else []


def pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in ENDINGS and not path.name.startswith('.'))


def _log_items(source: FrameSource) -> Iterator[LoggedFrame | str]:
    problems: list[str] = []
    for frame in iter_frames(source.path, problems):
        yield from problems
        problems.clear()
        yield frame
    yield from problems


def _picture(
    path: Path, index: int, stamp_ns: int, topic: str, dive: str, kept_as: str = '',
    file: str = '',
) -> SourceFrame | BadFrame:
    try:
        return SourceFrame(index, stamp_ns, topic, dive, read_image_file(path),
                           kept_as=kept_as, file=file)
    except (OSError, ValueError) as err:
        return BadFrame(index, f'{path} cannot be read ({why(err)})', topic, dive, is_lost(err))


def is_lost(err: BaseException | None) -> bool:
    """Return whether a disk or network failed, rather than the file on it."""
    return isinstance(err, OSError) and err.errno in _OF_A_LOST_DISK


class _Place(NamedTuple):
    """A bag, folder or log, and the folder that names its run."""

    kind: str
    path: Path
    run: Path


def find_sources(
    inputs: Sequence[Path], topics: Sequence[str], problems: list[str], dive: str = '',
    unread: list[str] | None = None,
) -> list[FrameSource]:
    """
    Find the bags, folders of pictures and frame logs at or below paths.

    Each is returned once, in the order of the inputs, then of the paths, then of the topics.
    `topics` are the image topics of each bag, or none for its camera, if that is unambiguous;
    `dive` names the run of all sources, else their folders do; the files of a folder are one run.
    `problems` receives a sentence for each bag, folder or topic that cannot be used, and `unread`
    for pictures and videos that are not read. Raises BagError if an input is missing or of unknown
    kind, or nothing is found.
    """
    unread = [] if unread is None else unread
    places = {place.path.resolve(): place for path in inputs for place in _places(path, unread)}
    # One spelling for each run; '.' has no name.
    runs = {place.run.absolute(): str(place.run if place.run.name else place.run.absolute())
            for place in places.values()}
    found: list[FrameSource] = []
    for place in places.values():
        try:
            if not (is_text(str(place.path)) and is_text(runs[place.run.absolute()])):
                raise BagError(f'the path {str(place.path)!r} is not UTF-8',
                               'names that a table can hold', 'rename it')
            sources = _sources_of(place, topics, problems)
        except (UncertaintySegError, OSError) as err:
            problems.append(' '.join(str(err).split()))
            continue
        run = dive or runs[place.run.absolute()]
        found += [replace(source, dive=dive or place.run.absolute().name or run,
                          is_dive_given=bool(dive), run=run) for source in sources]
    if not found:
        more = f' (and {len(problems) - 1} more like it)' if len(problems) > 1 else ''
        raise BagError(problems[0].rstrip('.') + more)
    return found


def _places(path: Path, unread: list[str]) -> Iterator[_Place]:
    if path.is_file():
        if path.suffix not in BAG_ENDINGS:
            raise BagError(f'{path} is no bag', f'a file {", ".join(BAG_ENDINGS)}, or a folder',
                           'of pictures, give the folder' if path.suffix in ENDINGS else '')
        yield _Place('bag', path, path.parent)
    elif path.is_dir():
        found = list(_places_in(path, set(), unread))
        if not found:
            raise BagError(f'{path} holds no frame', 'a bag, a frame log, or pictures '
                           f'({", ".join(ENDINGS[:3])}), there or below', '; '.join(unread))
        yield from found
    else:
        raise BagError(f'no input at {path}', 'a bag, a folder of pictures, or a frame log',
                       'check the path')


def _places_in(folder: Path, seen: set[Path], unread: list[str]) -> list[_Place]:
    if folder.resolve() in seen:  # a cycle of links
        return []
    seen.add(folder.resolve())
    if _is_log(folder):
        return [_Place('log', folder, folder)]
    if (folder / METADATA_FILE).is_file():
        return [_Place('bag', folder, folder)]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
    _name_others(folder, inside, unread)
    if images := _images_of(folder):
        beside = [path for path in inside if path.is_dir() and path != images
                  and path.name not in _OF_LABELS and pictures(path)]
        unread += [f'{len(pictures(path))} pictures of {path} beside {images.name}/ are not read: '
                   'give that folder too' for path in beside]
        return [_Place('folder', images, folder)]
    found = [_Place('bag', path, folder) for path in inside
             if path.suffix in BAG_ENDINGS and path.is_file()]
    found += [place for path in inside if path.is_dir()
              for place in _places_in(path, seen, unread)]
    if shots := pictures(folder):
        if all(place.kind == 'folder' for place in found):
            return [_Place('folder', folder, folder), *found]
        unread.append(f'{len(shots)} pictures of {folder} beside recordings are not read (the '
                      f'first is {shots[0].name!r}): put them into their own folder')
    return found


def _images_of(folder: Path) -> Path | None:
    """Return the folder of photographs in a labelled folder or an export, not that of masks."""
    if not ((folder / 'masks').is_dir() or (folder / TABLE_FILE).is_file()):
        return None
    return next((place for place in (folder / 'images', folder / 'data') if place.is_dir()), None)


def _name_others(folder: Path, inside: Sequence[Path], unread: list[str]) -> None:
    others = [path for path in inside if path.suffix.lower() in _OTHER_ENDINGS]
    if others:
        kinds = Counter(path.suffix.lower() for path in others)
        counts = ', '.join(f'{count} {ending}' for ending, count in sorted(kinds.items()))
        unread.append(f'{counts} of {folder} are not read (the first is {others[0].name!r}): save '
                      'pictures as .png (mogrify -format png), frames of videos too (ffmpeg)')


def is_bag(folder: Path) -> bool:
    """Return whether a folder is a bag, or contains files of one."""
    return (folder / METADATA_FILE).is_file() or any(
        path.suffix in BAG_ENDINGS for path in folder.iterdir())


def _is_log(folder: Path) -> bool:
    frames = folder / FRAMES_FOLDER
    return frames.is_dir() and ((folder / MANIFEST_FILE).exists()
                                or any(frames.glob(f'*/{SIDECAR_FILE}')))


def _sources_of(
    place: _Place, topics: Sequence[str], problems: list[str]
) -> list[FrameSource]:
    if place.kind == 'bag':
        return _topics_of(place.path, topics, problems)
    files = pictures(place.path) if place.kind == 'folder' else sorted(
        place.path.glob(f'{FRAMES_FOLDER}/[!.]*/{SIDECAR_FILE}'))
    if not files:
        raise BagError(f'{place.path} holds no frame', 'at least one')
    step = PICTURES_A_SHARD if place.kind == 'folder' else len(files)
    parts = {first: files[first:first + step] for first in range(0, len(files), step)}
    return [FrameSource(str(place.path), place.kind, '', '', len(part), _digest(part), first=first)
            for first, part in parts.items()]


def _topics_of(bag: Path, topics: Sequence[str], problems: list[str]) -> list[FrameSource]:
    types, counts = _contents(bag)
    files = sorted(p for p in bag.iterdir() if p.is_file()) if bag.is_dir() else [bag]
    digest = _digest(files)
    found = {}
    for wanted in topics or (None,):
        try:
            topic = choose_image_topic(bag, types, wanted)
            if counts.get(topic, 0) == 0:
                raise BagError(f'bag {bag} has no message on {topic}', 'at least one image')
        except BagError as err:
            problems.append(str(err))
            continue
        found[topic] = FrameSource(str(bag), 'bag', topic, '', counts[topic], digest)
    return list(found.values())


def _contents(bag: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Return types and numbers of messages by topic, from the index or else by a scan."""
    try:
        with BagReader(bag) as reader:
            types = reader.topics()
            return types, {topic: reader.count(topic) for topic in types}
    except BagError:
        files = mcap_files(bag)
        if not files:
            raise
    types, found = {}, Counter[str]()
    for file in files:
        stream = McapStream(file)
        found += stream.counts()
        types |= stream.types
    if not types:
        raise BagError(f'bag {bag} breaks off before it names a topic', 'a whole bag',
                       'copy it again, or wait until the recorder has closed it')
    return dict(sorted(types.items())), dict(found)


def _digest(files: Iterable[Path]) -> str:
    seen = hashlib.sha256()
    for file in files:
        status = file.stat()
        seen.update(os.fsencode(f'{file.parent.name}/{file.name} {status.st_size} '
                                f'{status.st_mtime_ns}\n'))
    return seen.hexdigest()[:16]

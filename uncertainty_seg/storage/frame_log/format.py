# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The format of a frame log: its input, its files on disk, and how they are written and read.

::

    LOG/manifest.jsonl                 an index; rebuilt from the folders when it is missing
    LOG/frames/<frame_id>/frame.json   everything known of the frame
                          image.<ext>  as received, or PNG or JPEG
                          mask.png     class ids, mono8, at the size of the image
                          uncertainty.png   16 bit: 0..65534 is 0..1, 65535 is not a number

A frame is written to a hidden folder and renamed, so that neither a killed process nor a power cut
leaves half a frame. A frame to be evicted is first hidden as `.out-`, which can be undone, and
renamed to `.gone-` and removed once the eviction is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
import errno
import math
import os
from pathlib import Path
import shutil
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap, require_shape
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import decode, decode_unchanged, ImageFile
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.settings import MASK_POLICIES, Value
from uncertainty_seg.errors import FrameLogError, ImageError
from uncertainty_seg.storage import whole_files
from uncertainty_seg.storage.foreign_files import parse_json, plain_name, read_bytes, why
from uncertainty_seg.storage.model_bundle import model_digest
from uncertainty_seg.storage.perceptual_hash import perceptual_hash

FORMAT_VERSION = 1
FRAMES_FOLDER = 'frames'
MANIFEST_FILE = 'manifest.jsonl'
SIDECAR_FILE = 'frame.json'
MASK_FILE = 'mask.png'
UNCERTAINTY_FILE = 'uncertainty.png'
REASONS = ('flagged', 'window', 'control', 'trigger')
NAN_VALUE = 65535
_FULL_VALUE = 65534
MAX_SIDECAR_BYTES = 2**24
LOCK_FILE = '.lock'
BUILDING, _HIDDEN, _LEAVING = '.new-', '.out-', '.gone-'
_BLOCK = 4096
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class LogFrame:
    """
    A processed frame that is offered to the log.

    The log keeps references and reads the arrays later, in its own thread: the caller must not
    modify them any more, nor the data that the two functions read. A stamp of 0 is missing: the
    time of the offer is used. The image is as received if it was compressed, else BGR; `encoding`
    is that of the message. `mask` and `uncertainty` return class ids, (H, W) of uint8, and a map,
    (H, W) of float32, 0..1 or NaN, at the size of the image; they are called once, for kept frames
    only, and keep `held_bytes` of memory alive.
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
    held_bytes: int = 0

    @property
    def is_flagged(self) -> bool:
        """Return whether the frame is worth a label."""
        return self.verdict.is_worth_a_label

    @property
    def memory_bytes(self) -> int:
        """Return the memory of the frame while it is queued."""
        image = self.image
        size = len(image.data) if isinstance(image, ImageFile) else image.nbytes
        return size + self.held_bytes

    @property
    def log_weight(self) -> float:
        """Logarithm of its worst score ratio, clipped to 0.01..100; NaN counts as 100."""
        ratio = self.verdict.score_ratio
        return math.log(min(max(ratio, 0.01), 100.0)) if ratio == ratio else math.log(100.0)


@dataclass(frozen=True)
class LogAbout:
    """The run that frames belong to: T passes, the logged map, all settings as `parameters`."""

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
    """Describe a run of a bundle with T passes; `parameters` is its `to_dict`."""
    values: Mapping[str, Any] = parameters
    return LogAbout(dive, card.name, model_digest(card), card.class_names, card.palette, passes,
                    values['seed'], values['mask_policy'], values['map'], parameters)


@dataclass(frozen=True)
class LoggedFrame:
    """
    A frame in a log: the folder of its files, and the content of its `frame.json`.

    The sidecar has version, frame_id, stamp_ns, ros_frame, camera, dive, reason (one of
    `REASONS`), verdict {confident, kind, reasons, score_ratio}, scores, thresholds, passes, seed,
    mask_policy, model {name, sha256}, map, classes [{id, name, color_rgb}], image {height, width,
    encoding, file}, phash (16 hex digits), parameters, reservoir {name, key, log_weight, bar}.
    A number that is not finite is null.
    """

    folder: Path
    sidecar: Mapping[str, Any]

    @property
    def frame_id(self) -> str:
        """Return its name, unique in the log."""
        return str(self.sidecar['frame_id'])

    @property
    def image_path(self) -> Path:
        """Return the path of the camera image."""
        return self.folder / str(self.sidecar['image']['file'])

    def read_image(self) -> ImageU8:
        """Read the image, BGR, (H, W, 3) of uint8; FrameLogError if missing or damaged."""
        return np.asarray(self._read(self.image_path, decode), np.uint8)

    def read_mask(self) -> LabelMap:
        """Read the class ids, (H, W) of uint8; FrameLogError if missing or damaged."""
        return np.asarray(self._png(MASK_FILE, np.uint8), np.uint8)

    def read_uncertainty(self) -> FloatMap:
        """Read the uncertainty, (H, W) of float32, 0..1 or NaN; FrameLogError if damaged."""
        return uncertainty_from_uint16(self._png(UNCERTAINTY_FILE, np.uint16))

    def _png(self, name: str, dtype: type) -> Any:
        pixels = self._read(self.folder / name, decode_unchanged)
        if pixels.ndim != 2 or pixels.dtype != dtype:
            raise FrameLogError(f'{self.folder / name} is of another kind',
                                f'a grey png of {np.dtype(dtype)}')
        return pixels

    def read_bytes(self, path: Path) -> bytes:
        """Read one of its files; FrameLogError if it is missing or too large."""
        try:
            return read_bytes(path)
        except (OSError, ValueError) as err:
            raise FrameLogError(f'{path} cannot be read ({why(err)})') from err

    def _read(self, path: Path, decoded: Callable[[ImageFile], Any]) -> Any:
        try:
            return decoded(ImageFile(self.read_bytes(path)))
        except ImageError as err:
            raise FrameLogError(f'{path} cannot be read ({why(err)})') from err


def iter_frames(folder: Path | str, problems: list[str] | None = None) -> Iterator[LoggedFrame]:
    """
    Iterate over the frames of a log by name, that is by stamp, even while it is being written.

    `problems` receives a sentence for each frame with an unreadable `frame.json`, which is left
    out. Raises FrameLogError if the folder is not a frame log, or, without `problems`, if a frame
    is damaged.
    """
    frames = Path(folder) / FRAMES_FOLDER
    if not frames.is_dir():
        raise FrameLogError(f'{folder} holds no folder {FRAMES_FOLDER}', 'a frame log',
                            'name the folder that was given as log.folder')
    for path in sorted(p for p in frames.iterdir() if not p.name.startswith('.')):
        try:
            sidecar = read_sidecar(path)
        except FrameLogError as err:
            if not path.exists():
                continue  # evicted meanwhile
            if problems is None:
                raise
            problems.append(str(err))
            continue
        yield LoggedFrame(path, sidecar)


def read_sidecar(path: Path) -> dict[str, Any]:
    """
    Read the `frame.json` of a frame's folder.

    Raises FrameLogError if it is missing, not JSON, of another version, or lacks required entries.
    """
    file = path / SIDECAR_FILE
    try:
        sidecar = parse_json(read_bytes(file, MAX_SIDECAR_BYTES))
        if sidecar['version'] != FORMAT_VERSION:
            raise FrameLogError(f'{file} has version {sidecar["version"]!r}', str(FORMAT_VERSION),
                                'read it with the uncertainty_seg that wrote it')
        str(sidecar['frame_id']), plain_name(sidecar['image']['file']), int(sidecar['stamp_ns'])
        verdict = sidecar.get('verdict', {})
        ratio = verdict.get('score_ratio')
        tuple(verdict.get('reasons') or ()), math.isfinite(0 if ratio is None else ratio)
    except OSError as err:
        raise FrameLogError(f'{file} cannot be read ({err.strerror})') from err
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as err:
        raise FrameLogError(f'{file} is damaged ({type(err).__name__}: {err})') from err
    return dict(sidecar)


def uncertainty_to_uint16(values: FloatMap) -> Any:
    """
    Convert an uncertainty map, (H, W) of float32 in 0..1 (clipped) or NaN, to uint16.

    The step is 1/65534, NaN becomes 65535. ShapeError if it is not a map of float32.
    """
    require_shape('uncertainty', values, (None, None), np.float32)
    packed = np.multiply(values, np.float32(_FULL_VALUE))
    np.rint(packed, out=packed)
    np.clip(packed, 0, _FULL_VALUE, out=packed)
    # The conversion of NaN to an integer is undefined.
    np.nan_to_num(packed, copy=False, nan=NAN_VALUE)
    return packed.astype(np.uint16)


def uncertainty_from_uint16(packed: Any) -> FloatMap:
    """Undo `uncertainty_to_uint16`, to within 1/131068."""
    values = packed.astype(np.float32) / np.float32(_FULL_VALUE)
    values[packed == NAN_VALUE] = np.nan
    return np.asarray(values, np.float32)


# -------------------------------------------------------------------------------------------------
# Writing and removing frames, and errors of the disk.


def decode_frame(frame: LogFrame) -> tuple[ImageU8, int]:
    """
    Return the image of a frame, BGR, (H, W, 3), and its 64-bit perceptual hash.

    ImageError if its bytes are not an image, ShapeError if its array is not.
    """
    image = decode(frame.image) if isinstance(frame.image, ImageFile) else frame.image
    return image, perceptual_hash(image)


def frame_files(
    frame: LogFrame, image_bgr: ImageU8, about: LogAbout, image_format: str,
    facts: Mapping[str, Any],
) -> dict[str, bytes]:
    """
    Encode the files of a frame of a run; content by file name.

    `facts` are the entries that the log determines: frame_id, reason, phash and reservoir. Raises
    ShapeError or ImageError if mask or uncertainty have another size than the image, or something
    cannot be encoded.
    """
    height, width = image_bgr.shape[:2]
    mask, uncertainty = frame.mask(), frame.uncertainty()
    require_shape('mask', mask, (height, width), np.uint8)
    require_shape('uncertainty', uncertainty, (height, width), np.float32)
    image_file, image = _image(frame, image_bgr, image_format)
    sidecar = _sidecar(frame, about, {**facts, 'image': {
        'height': height, 'width': width, 'encoding': frame.encoding, 'file': image_file}})
    return {
        image_file: image,
        MASK_FILE: _encoded('.png', mask),
        UNCERTAINTY_FILE: _encoded('.png', uncertainty_to_uint16(uncertainty)),
        # Without `indent`: json would then encode in Python code, and so delay the node.
        SIDECAR_FILE: (whole_files.json_text(sidecar) + '\n').encode(),
    }


def _image(frame: LogFrame, image_bgr: ImageU8, image_format: str) -> tuple[str, bytes]:
    if image_format == 'jpeg':
        quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
        return 'image.jpg', _encoded('.jpg', image_bgr, quality)
    if image_format == 'received' and isinstance(frame.image, ImageFile):
        data = bytes(frame.image.data)
        # `decode` accepts JPEG and PNG only.
        return ('image.png' if data.startswith(b'\x89PNG') else 'image.jpg'), data
    return 'image.png', _encoded('.png', image_bgr)


def _encoded(ending: str, pixels: NDArray[Any], options: tuple[int, ...] = ()) -> bytes:
    # OpenCV's default for PNG: run lengths of differences. The next better strategy takes three
    # times as long and saves a tenth (docs/guides/frame_log.md).
    is_done, data = cv2.imencode(ending, pixels, options)
    if not is_done:
        raise ImageError(f'{pixels.shape} of {pixels.dtype} cannot be encoded as {ending}')
    return bytes(data)


def _sidecar(frame: LogFrame, about: LogAbout, facts: Mapping[str, Any]) -> dict[str, Any]:
    verdict = frame.verdict
    classes = [{'id': k, 'name': name, 'color_rgb': list(color)}
               for k, (name, color) in enumerate(zip(about.class_names, about.palette,
                                                     strict=True))]
    return {
        'version': FORMAT_VERSION, **facts, 'stamp_ns': frame.stamp_ns,
        'ros_frame': frame.ros_frame, 'camera': frame.camera, 'dive': about.dive,
        'verdict': {'confident': verdict.is_confident, 'kind': verdict.kind,
                    'reasons': list(verdict.reasons), 'score_ratio': verdict.score_ratio},
        'scores': dict(frame.scores), 'thresholds': dict(frame.thresholds),
        'passes': about.passes, 'seed': about.seed, 'mask_policy': about.mask_policy,
        'model': {'name': about.model, 'sha256': about.model_sha256},
        'map': about.map_name, 'classes': classes, 'parameters': dict(about.parameters),
    }


def disk_bytes(sizes: Iterable[int]) -> int:
    """Return the disk space of files of these sizes, in whole blocks and with their folder."""
    return _BLOCK + sum(-(-size // _BLOCK) * _BLOCK for size in sizes)


def write_frame(folder: Path, frame_id: str, files: Mapping[str, bytes]) -> None:
    """
    Add a frame to a log, under a name that is not in use; content by file name.

    OSError if writing fails; nothing of the frame remains then, unless removing it fails as well.
    """
    place = folder / FRAMES_FOLDER / frame_id
    with whole_files.whole_folder(place, f'{BUILDING}{frame_id}') as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)


def hide_frame(folder: Path, frame_id: str, is_hidden: bool = True) -> None:
    """Hide a frame that may have to be evicted, or undo that; OSError if the disk fails."""
    frames = folder / FRAMES_FOLDER
    before, after = frame_id, f'{_HIDDEN}{frame_id}'
    if not is_hidden:
        before, after = after, before
    whole_files.rename(frames / before, frames / after)


def remove_frame(folder: Path, frame_id: str) -> None:
    """Remove a frame, hidden or not, for good; OSError if the disk fails."""
    frames = folder / FRAMES_FOLDER
    hidden, leaving = frames / f'{_HIDDEN}{frame_id}', frames / f'{_LEAVING}{frame_id}'
    whole_files.rename(hidden if hidden.exists() else frames / frame_id, leaving)
    shutil.rmtree(leaving)


def sweep(folder: Path, evicted: Container[str]) -> tuple[int, list[str]]:
    """
    Remove the remains of a crash, and show hidden frames that were not `evicted` by the index.

    Returns the number of frames that were being written, and the ids of those that were being
    removed. Raises OSError if the disk fails.
    """
    num_unfinished, leaving = 0, []
    for path in sorted((folder / FRAMES_FOLDER).iterdir()):
        prefix = next((p for p in (BUILDING, _HIDDEN, _LEAVING) if path.name.startswith(p)), '')
        frame_id = path.name.removeprefix(prefix)
        if prefix == BUILDING:
            num_unfinished += 1
            shutil.rmtree(path)
        elif prefix == _HIDDEN and frame_id not in evicted:
            # Still complete: files are only removed from `.gone-`.
            hide_frame(folder, frame_id, is_hidden=False)
        elif prefix:
            leaving.append(frame_id)
            shutil.rmtree(path)
    return num_unfinished, leaving


def lock_folder(folder: Path) -> int:
    """Lock a log as `lock_file` does; FrameLogError if another process holds the lock."""
    try:
        return whole_files.lock_file(folder / LOCK_FILE)
    except BlockingIOError as err:
        raise FrameLogError(f'frame log {folder} is written by another process', 'one writer',
                            'give each node a log.folder of its own') from err


def require_device(folder: Path, device: int) -> None:
    """Raise FrameLogError if a folder would be created on another disk than before."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if os.stat(nearest).st_dev != device:
        raise FrameLogError(f'frame log {folder} cannot be written, its disk is missing',
                            fix='mount it again')


# For each errno the cause that drops are counted under, what happened, and what to do.
_DISK_ERRORS = {
    errno.ENOSPC: ('disk_full', 'its disk is full', 'make room'),
    errno.EDQUOT: ('disk_full', "its user's disk quota is used up", 'make room'),
    errno.EROFS: ('read_only', 'its disk is read-only', 'mount it for writing'),
    errno.ENOENT: ('folder_missing', 'the folder is missing', 'restore it or mount its disk'),
    errno.ENOTDIR: ('folder_missing', 'a file is in its place', 'name another folder'),
    errno.EACCES: ('not_writable', 'this user may not write there', 'change its permissions'),
    errno.EPERM: ('not_writable', 'this user may not write there', 'change its permissions'),
}


def disk_error(err: OSError, folder: Path) -> tuple[str, FrameLogError]:
    """Return the cause that drops are counted under for an error of the disk, and the report."""
    cause, what, fix = _DISK_ERRORS.get(
        err.errno or 0, ('disk_error', err.strerror or str(err), 'see what the disk reports'))
    return cause, FrameLogError(f'frame log {folder} cannot be written, {what}', fix=fix)

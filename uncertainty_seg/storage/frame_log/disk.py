# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Put a frame on disk whole or not at all, take it away again, and say what a disk complains of.

A frame is built in a hidden folder, every file of it is brought to the disk, and one rename makes
it visible. So neither a killed process nor a power cut shows half a frame. What has to go is
hidden first, as `.out-`, which can be taken back, and removed, as `.gone-`, when that is decided.

"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
import errno
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.core.image_codec import decode, ImageFile
from uncertainty_seg.core.perceptual_hash import perceptual_hash
from uncertainty_seg.core.settings import LogSettings
from uncertainty_seg.errors import FrameLogError, ImageError
from uncertainty_seg.storage.frame_log.format import (
    FORMAT_VERSION,
    FRAMES_FOLDER,
    LogAbout,
    LogFrame,
    MASK_FILE,
    SIDECAR_FILE,
    UNCERTAINTY_FILE,
    uncertainty_to_uint16,
)
from uncertainty_seg.storage.whole_files import lock_file, sync, whole_file

# -------------------------------------------------------------------------------------------------
# The files that are made of a logged frame.
# Pure: arrays in, bytes out. Disk and threads are not known here.


@dataclass(frozen=True)
class Looked:
    """
    A frame whose pixels were looked at.

    Attributes
    ----------
    image_bgr : ndarray of uint8, shape (H, W, 3)
        Decoded.
    phash : int
        64-bit perceptual hash.

    """

    image_bgr: ImageU8
    phash: int


def look_at(frame: LogFrame) -> Looked:
    """Decode and hash a frame; ImageError if its bytes are no image, ShapeError if its array."""
    image = decode(frame.image) if isinstance(frame.image, ImageFile) else frame.image
    return Looked(image, perceptual_hash(image))


def frame_files(
    frame: LogFrame, looked: Looked, about: LogAbout, settings: LogSettings,
    facts: Mapping[str, Any],
) -> dict[str, bytes]:
    """
    Make the files of a frame.

    Parameters
    ----------
    frame, looked : LogFrame, Looked
        The frame.
    about : LogAbout
        The run it was in.
    settings : LogSettings
        For the format of the image.
    facts : mapping
        What the log knows: frame_id, reason, reservoir.

    Returns
    -------
    dict of str to bytes
        File name to content, the sidecar last.

    Raises
    ------
    ShapeError, ImageError
        If mask or uncertainty have another size than the image, or something cannot be encoded.

    """
    height, width = looked.image_bgr.shape[:2]
    mask, uncertainty = frame.mask(), frame.uncertainty()
    require_shape('mask', mask, (height, width), np.uint8)
    require_shape('uncertainty', uncertainty, (height, width), np.float32)
    image_file, image = _image(frame, looked, settings)
    image_facts = {'height': height, 'width': width, 'encoding': frame.encoding,
                   'file': image_file}
    sidecar = _sidecar(frame, about, {**facts, 'image': image_facts,
                                      'phash': f'{looked.phash:016x}'})
    return {
        image_file: image,
        MASK_FILE: _encoded('.png', mask),
        UNCERTAINTY_FILE: _encoded('.png', uncertainty_to_uint16(uncertainty)),
        # Without `indent`: with it Python encodes by itself, and holds the node up.
        SIDECAR_FILE: (json.dumps(_plain(sidecar)) + '\n').encode(),
    }


def _image(frame: LogFrame, looked: Looked, settings: LogSettings) -> tuple[str, bytes]:
    if settings.image_format == 'jpeg':
        quality = (cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality)
        return 'image.jpg', _encoded('.jpg', looked.image_bgr, quality)
    if settings.image_format == 'received' and isinstance(frame.image, ImageFile):
        data = bytes(frame.image.data)
        # What it is is told by its first bytes; `decode` took nothing but these two.
        return ('image.png' if data.startswith(b'\x89PNG') else 'image.jpg'), data
    return 'image.png', _encoded('.png', looked.image_bgr)


def _encoded(ending: str, pixels: NDArray[Any], options: tuple[int, ...] = ()) -> bytes:
    # PNG as OpenCV has it: run lengths of differences. The next better takes three times as long
    # for a tenth less (docs/frame_log.md).
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
        'version': FORMAT_VERSION,
        **facts,
        'stamp_ns': frame.stamp_ns,
        'ros_frame': frame.ros_frame,
        'camera': frame.camera,
        'dive': about.dive,
        'verdict': {'confident': verdict.is_confident, 'kind': verdict.kind,
                    'reasons': list(verdict.reasons), 'score_ratio': verdict.score_ratio},
        'scores': dict(frame.scores),
        'thresholds': dict(frame.thresholds),
        'passes': about.passes,
        'seed': about.seed,
        'mask_policy': about.mask_policy,
        'model': {'name': about.model, 'sha256': about.model_sha256},
        'map': about.map_name,
        'classes': classes,
        'parameters': dict(about.parameters),
    }


def _plain(value: Any) -> Any:
    """Return what JSON knows: numbers of numpy as such, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -------------------------------------------------------------------------------------------------

LOCK_FILE = '.lock'
_BUILDING, _HIDDEN, _LEAVING = '.new-', '.out-', '.gone-'
_BLOCK = 4096
# Errno -> what the drop is counted as, what happened, what to do.
_TROUBLES = {
    errno.ENOSPC: ('disk_full', 'its disk is full', 'make room'),
    errno.EDQUOT: ('disk_full', "its user's disk quota is used up", 'make room'),
    errno.EROFS: ('read_only', 'its disk is read-only', 'mount it for writing'),
    errno.ENOENT: ('folder_missing', 'the folder is gone', 'put it or its disk back'),
    errno.ENOTDIR: ('folder_missing', 'a file is in its place', 'name another folder'),
    errno.EACCES: ('not_writable', 'this user may not write there', 'change its permissions'),
    errno.EPERM: ('not_writable', 'this user may not write there', 'change its permissions'),
}


def trouble(
    err: OSError, folder: Path, is_new: bool = False
) -> tuple[str, FrameLogError]:
    """
    Name what a disk complained of.

    Parameters
    ----------
    err : OSError
        As caught.
    folder : Path
        The log.
    is_new : bool
        It has not been written yet, so that nothing can have gone.

    Returns
    -------
    str, FrameLogError
        What a drop for it is counted as: 'disk_full', 'read_only', 'folder_missing',
        'not_writable' or 'disk_error'; the sentence.

    """
    if is_new and err.errno == errno.ENOENT:
        return 'folder_missing', FrameLogError(
            f'frame log {folder} cannot be written, no folder can be made there',
            fix='name another folder as log.folder')
    cause, what, fix = _TROUBLES.get(
        err.errno or 0, ('disk_error', err.strerror or str(err), 'see what the disk reports'))
    return cause, FrameLogError(f'frame log {folder} cannot be written, {what}', fix=fix)


def disk_bytes(sizes: Mapping[str, int]) -> int:
    """Return what files of these sizes take on disk, in whole blocks and with their folder."""
    return _BLOCK + sum(-(-size // _BLOCK) * _BLOCK for size in sizes.values())


def folder_bytes(path: Path) -> int:
    """Return what a frame's folder takes on disk."""
    return disk_bytes({p.name: p.stat().st_size for p in path.iterdir()})


def write_frame(folder: Path, frame_id: str, files: Mapping[str, bytes]) -> None:
    """
    Put a frame into a log.

    Parameters
    ----------
    folder : Path
        The log.
    frame_id : str
        A name that is not there yet.
    files : mapping of str to bytes
        Name to content.

    Raises
    ------
    OSError
        If the disk refuses. Nothing of the frame is left then, if the disk lets us clean up.

    """
    frames = folder / FRAMES_FOLDER
    building = frames / f'{_BUILDING}{frame_id}'
    try:
        building.mkdir()
        for name, content in files.items():
            _write_synced(building / name, content)
        sync(building)
        os.rename(building, frames / frame_id)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync(frames)


def hide_frame(folder: Path, frame_id: str) -> None:
    """Take a frame out of sight, for the time being; OSError if the disk refuses."""
    frames = folder / FRAMES_FOLDER
    os.rename(frames / frame_id, frames / f'{_HIDDEN}{frame_id}')


def show_frame(folder: Path, frame_id: str) -> None:
    """Put a hidden frame back; OSError if the disk refuses."""
    frames = folder / FRAMES_FOLDER
    os.rename(frames / f'{_HIDDEN}{frame_id}', frames / frame_id)


def remove_frame(folder: Path, frame_id: str) -> None:
    """Remove a frame, hidden or not, for good; OSError if the disk refuses."""
    frames = folder / FRAMES_FOLDER
    hidden, leaving = frames / f'{_HIDDEN}{frame_id}', frames / f'{_LEAVING}{frame_id}'
    os.rename(hidden if hidden.exists() else frames / frame_id, leaving)
    shutil.rmtree(leaving)


def sweep(folder: Path, evicted: Container[str]) -> tuple[int, list[str]]:
    """
    Remove what a crash left behind, and show again what was only hidden by then.

    Parameters
    ----------
    folder : Path
        The log.
    evicted : container of str
        Frames of which the index says that they had to go.

    Returns
    -------
    int, list of str
        Frames that were being written; ids of those that were on their way out.

    Raises
    ------
    OSError
        If the disk refuses.

    """
    num_unfinished, leaving = 0, []
    for path in sorted((folder / FRAMES_FOLDER).iterdir()):
        prefix = next((p for p in (_BUILDING, _HIDDEN, _LEAVING) if path.name.startswith(p)), '')
        frame_id = path.name.removeprefix(prefix)
        if prefix == _BUILDING:
            num_unfinished += 1
            shutil.rmtree(path)
        elif prefix == _HIDDEN and frame_id not in evicted:
            show_frame(folder, frame_id)  # still whole: files go only from what is `.gone-`
        elif prefix:
            leaving.append(frame_id)
            shutil.rmtree(path)
    return num_unfinished, leaving


def frame_names(folder: Path) -> list[str]:
    """Return the ids of the frames in a log, sorted; OSError if it cannot be read."""
    return sorted(entry.name for entry in os.scandir(folder / FRAMES_FOLDER)
                  if entry.is_dir() and not entry.name.startswith('.'))


def lock_folder(folder: Path) -> int:
    """
    Make sure that no other process writes into a log.

    Parameters
    ----------
    folder : Path
        The log.

    Returns
    -------
    int
        A file descriptor; the lock ends when it is closed, by us or by the end of the process.

    Raises
    ------
    FrameLogError
        If another process holds it.
    OSError
        If the disk refuses.

    """
    try:
        return lock_file(folder / LOCK_FILE)
    except BlockingIOError as err:
        raise FrameLogError(f'frame log {folder} is written by another process', 'one writer',
                            'give each node a log.folder of its own') from err


def require_device(folder: Path, device: int) -> None:
    """Refuse a folder that would be made on another disk than before, with FrameLogError."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if os.stat(nearest).st_dev != device:
        raise FrameLogError(f'frame log {folder} cannot be written, its disk is gone',
                            fix='put it back')


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; OSError if the disk refuses."""
    # Always the same draft: there is one writer, and what a killed one left is written over.
    with whole_file(path, f'{_BUILDING}{path.name}') as draft:
        draft.write_bytes(content)


def append_line(path: Path, text: str, is_synced: bool) -> None:
    """Add to the end of a file, and bring it to the disk if so wished; OSError if refused."""
    with path.open('a') as file:
        file.write(text)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())


def _write_synced(path: Path, content: bytes) -> None:
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

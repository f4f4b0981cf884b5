# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The frames of a log on disk: their files, writing and removing them, and errors of the disk.

A frame is written to a hidden folder and renamed, so that neither a killed process nor a power cut
shows half a frame. A frame that is to be evicted is first hidden as `.out-`, which can be undone,
and removed as `.gone-` once that is decided.

"""

from __future__ import annotations

from collections.abc import Container, Mapping
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
from uncertainty_seg.errors import FrameLogError, ImageError
from uncertainty_seg.storage import whole_files
from uncertainty_seg.storage.frame_log import format as log_format
from uncertainty_seg.storage.frame_log.format import LogAbout, LogFrame

# With image_format jpeg.
JPEG_QUALITY = 95
LOCK_FILE = '.lock'
_BUILDING, _HIDDEN, _LEAVING = '.new-', '.out-', '.gone-'
_BLOCK = 4096
_JPEG_QUALITY = 95


def decode_frame(frame: LogFrame) -> tuple[ImageU8, int]:
    """
    Return the image of a frame, BGR, (H, W, 3), and its 64-bit perceptual hash.

    ImageError if its bytes are no image, ShapeError if its array is none.
    """
    image = decode(frame.image) if isinstance(frame.image, ImageFile) else frame.image
    return image, perceptual_hash(image)


def frame_files(
    frame: LogFrame, image_bgr: ImageU8, about: LogAbout, image_format: str,
    facts: Mapping[str, Any],
) -> dict[str, bytes]:
    """
    Encode the files of a frame of a run; content by file name.

    `facts` are what only the log knows: frame_id, reason, phash and reservoir. Raises ShapeError
    or ImageError if mask or uncertainty have another size than the image, or something cannot be
    encoded.
    """
    height, width = image_bgr.shape[:2]
    mask, uncertainty = frame.mask(), frame.uncertainty()
    require_shape('mask', mask, (height, width), np.uint8)
    require_shape('uncertainty', uncertainty, (height, width), np.float32)
    image_file, image = _image(frame, image_bgr, image_format)
    image_facts = {'height': height, 'width': width, 'encoding': frame.encoding,
                   'file': image_file}
    sidecar = _sidecar(frame, about, {**facts, 'image': image_facts})
    packed = log_format.uncertainty_to_uint16(uncertainty)
    return {
        image_file: image,
        log_format.MASK_FILE: _encoded('.png', mask),
        log_format.UNCERTAINTY_FILE: _encoded('.png', packed),
        # Without `indent`, which would be encoded in Python code and so hold up the node.
        log_format.SIDECAR_FILE: (json.dumps(_plain(sidecar)) + '\n').encode(),
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
    # times as long and saves a tenth (docs/frame_log.md).
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
        'version': log_format.FORMAT_VERSION,
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
    """Convert to JSON types: numbers of numpy to Python's, non-finite ones to null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def disk_bytes(sizes: Mapping[str, int]) -> int:
    """Return the disk space of files of these sizes, in whole blocks and with their folder."""
    return _BLOCK + sum(-(-size // _BLOCK) * _BLOCK for size in sizes.values())


def folder_bytes(path: Path) -> int:
    """Return the disk space of a frame's folder."""
    return disk_bytes({p.name: p.stat().st_size for p in path.iterdir()})


def write_frame(folder: Path, frame_id: str, files: Mapping[str, bytes]) -> None:
    """
    Add a frame to a log, under a name that is not in use; content by file name.

    OSError if the disk refuses. Nothing of the frame remains then, if the disk allows to clean up.
    """
    place = folder / log_format.FRAMES_FOLDER / frame_id
    with whole_files.whole_folder(place, f'{_BUILDING}{frame_id}') as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)


def hide_frame(folder: Path, frame_id: str) -> None:
    """Hide a frame that may have to be evicted; OSError if the disk refuses."""
    frames = folder / log_format.FRAMES_FOLDER
    whole_files.rename(frames / frame_id, frames / f'{_HIDDEN}{frame_id}')


def show_frame(folder: Path, frame_id: str) -> None:
    """Undo `hide_frame`; OSError if the disk refuses."""
    frames = folder / log_format.FRAMES_FOLDER
    whole_files.rename(frames / f'{_HIDDEN}{frame_id}', frames / frame_id)


def remove_frame(folder: Path, frame_id: str) -> None:
    """Remove a frame, hidden or not, for good; OSError if the disk refuses."""
    frames = folder / log_format.FRAMES_FOLDER
    hidden, leaving = frames / f'{_HIDDEN}{frame_id}', frames / f'{_LEAVING}{frame_id}'
    whole_files.rename(hidden if hidden.exists() else frames / frame_id, leaving)
    shutil.rmtree(leaving)


def sweep(folder: Path, evicted: Container[str]) -> tuple[int, list[str]]:
    """
    Remove the remains of a crash, and show hidden frames that were not `evicted` by the index.

    Returns the number of frames that were being written, and the ids of those that were being
    removed. Raises OSError if the disk refuses.
    """
    num_unfinished, leaving = 0, []
    for path in sorted((folder / log_format.FRAMES_FOLDER).iterdir()):
        prefix = next((p for p in (_BUILDING, _HIDDEN, _LEAVING) if path.name.startswith(p)), '')
        frame_id = path.name.removeprefix(prefix)
        if prefix == _BUILDING:
            num_unfinished += 1
            shutil.rmtree(path)
        elif prefix == _HIDDEN and frame_id not in evicted:
            show_frame(folder, frame_id)  # still complete: files are only removed from `.gone-`
        elif prefix:
            leaving.append(frame_id)
            shutil.rmtree(path)
    return num_unfinished, leaving


def frame_names(folder: Path) -> list[str]:
    """Return the ids of the frames in a log, sorted; OSError if it cannot be read."""
    return sorted(entry.name for entry in os.scandir(folder / log_format.FRAMES_FOLDER)
                  if entry.is_dir() and not entry.name.startswith('.'))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of a log, whole or not at all; OSError if the disk refuses."""
    # Always the same draft: there is one writer, so that of a killed one is overwritten.
    whole_files.replace_file(path, content, f'{_BUILDING}{path.name}')


def append_line(path: Path, text: str, is_synced: bool) -> None:
    """Append to a file, and flush it to the disk if requested; OSError if the disk refuses."""
    with path.open('a') as file:
        file.write(text)
    if is_synced:
        whole_files.sync(path)


def lock_folder(folder: Path) -> int:
    """
    Lock a log against other processes that write; returns a descriptor as `lock_file` does.

    FrameLogError if another process holds the lock, OSError if the disk refuses.
    """
    try:
        return whole_files.lock_file(folder / LOCK_FILE)
    except BlockingIOError as err:
        raise FrameLogError(f'frame log {folder} is written by another process', 'one writer',
                            'give each node a log.folder of its own') from err


def require_device(folder: Path, device: int) -> None:
    """Refuse a folder that would be made on another disk than before, with FrameLogError."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if os.stat(nearest).st_dev != device:
        raise FrameLogError(f'frame log {folder} cannot be written, its disk is missing',
                            fix='mount it again')


# Errno -> cause that drops are counted under, what happened, what to do.
_DISK_ERRORS = {
    errno.ENOSPC: ('disk_full', 'its disk is full', 'make room'),
    errno.EDQUOT: ('disk_full', "its user's disk quota is used up", 'make room'),
    errno.EROFS: ('read_only', 'its disk is read-only', 'mount it for writing'),
    errno.ENOENT: ('folder_missing', 'the folder is missing', 'restore it or mount its disk'),
    errno.ENOTDIR: ('folder_missing', 'a file is in its place', 'name another folder'),
    errno.EACCES: ('not_writable', 'this user may not write there', 'change its permissions'),
    errno.EPERM: ('not_writable', 'this user may not write there', 'change its permissions'),
}


def disk_error(err: OSError, folder: Path, is_new: bool = False) -> tuple[str, FrameLogError]:
    """
    Return the cause that drops are counted under for an error of the disk, and what to report.

    `is_new`: the log has not been written yet, so that nothing can have disappeared.
    """
    if is_new and err.errno == errno.ENOENT:
        return 'folder_missing', FrameLogError(
            f'frame log {folder} cannot be written, no folder can be made there',
            fix='name another folder as log.folder')
    cause, what, fix = _DISK_ERRORS.get(
        err.errno or 0, ('disk_error', err.strerror or str(err), 'see what the disk reports'))
    return cause, FrameLogError(f'frame log {folder} cannot be written, {what}', fix=fix)

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The format of a frame log: what it is given, what lies where on disk, and how it is read.

::

    LOG/manifest.jsonl                 an index; rebuilt from the folders when it is missing
    LOG/frames/<frame_id>/frame.json   everything known of the frame
                          image.<ext>  as received, or PNG or JPEG
                          mask.png     class ids, mono8, at the size of the image
                          uncertainty.png   16 bit: 0..65534 is 0..1, 65535 is not a number

A folder appears under its name only when it is complete; frames that are being written or removed
have names that begin with a dot. Frames are written by `frame_log.disk`.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
import math
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap, require_shape
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import decode, decode_unchanged, ImageFile
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.parameters import Value
from uncertainty_seg.core.settings import MASK_POLICIES
from uncertainty_seg.errors import FrameLogError, ImageError
from uncertainty_seg.storage.foreign_files import parse_json, plain_name, read_bytes, why
from uncertainty_seg.storage.model_bundle import model_digest

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


@dataclass(frozen=True)
class LogFrame:
    """
    A processed frame that is offered to the log.

    The log keeps references and reads the arrays later, in its own thread: the caller must not
    modify them any more, nor what the two functions read.

    Attributes
    ----------
    stamp_ns : int
        The image's stamp; 0 if it has none, and the time of the offer is used.
    camera : str
        Name of the camera, empty if there is only one; cameras are treated separately.
    ros_frame : str
        frame_id of the header.
    image : ImageFile or ndarray of uint8, shape (H, W, 3)
        As received if it was compressed, else BGR.
    encoding : str
        Encoding of the message, for the sidecar: 'rgb8', 'jpeg'.
    verdict : Verdict
        Flag, reasons and worst score ratio.
    scores, thresholds : mapping of str to float
        Every score; limit of each gated one.
    mask : callable
        Returns class ids, (H, W) of uint8, at the size of the image; called once, for kept
        frames only.
    uncertainty : callable
        Returns the published map, (H, W) of float32, 0..1 or NaN, larger is less certain.
    held_bytes : int
        Memory that `mask` and `uncertainty` keep alive.

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
    """
    The run that frames belong to.

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
        All settings.

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
    Describe a run, named `dive`, of a bundle with T passes for `FrameLog`.

    `parameters` is `core.settings.settings_to_dict` of the current settings.
    """
    values: Mapping[str, Any] = parameters
    return LogAbout(dive, card.name, model_digest(card), card.class_names, card.palette, passes,
                    values['seed'], values['mask_policy'], values['map'], parameters)


@dataclass(frozen=True)
class LoggedFrame:
    """
    A frame in a log.

    Attributes
    ----------
    folder : Path
        Folder of its files.
    sidecar : mapping of str to object
        `frame.json`: version, frame_id, stamp_ns, ros_frame, camera, dive, reason (one of
        `REASONS`), verdict {confident, kind, reasons, score_ratio}, scores, thresholds, passes,
        seed, mask_policy, model {name, sha256}, map, classes [{id, name, color_rgb}],
        image {height, width, encoding, file}, phash (16 hex digits), parameters,
        reservoir {name, key, log_weight, bar}. A number that is not finite is null.

    """

    folder: Path
    sidecar: Mapping[str, Any]

    @property
    def frame_id(self) -> str:
        """Its name, unique in the log."""
        return str(self.sidecar['frame_id'])

    @property
    def image_path(self) -> Path:
        """Return the camera image."""
        return self.folder / str(self.sidecar['image']['file'])

    @property
    def mask_path(self) -> Path:
        """Return the class ids."""
        return self.folder / MASK_FILE

    def read_image(self) -> ImageU8:
        """Read the image, BGR, (H, W, 3) of uint8; FrameLogError if missing or damaged."""
        try:
            return decode(ImageFile(self.read_bytes(self.image_path)))
        except ImageError as err:
            raise FrameLogError(f'{self.image_path} cannot be read ({why(err)})') from err

    def read_mask(self) -> LabelMap:
        """Read the class ids, (H, W) of uint8; FrameLogError if missing or damaged."""
        return np.asarray(self._png(self.mask_path, np.uint8), np.uint8)

    def read_uncertainty(self) -> FloatMap:
        """Read the uncertainty, (H, W) of float32, 0..1 or NaN; FrameLogError if damaged."""
        return uncertainty_from_uint16(self._png(self.folder / UNCERTAINTY_FILE, np.uint16))

    def _png(self, path: Path, dtype: type) -> Any:
        wanted = f'a grey png of {np.dtype(dtype)}'
        try:
            pixels = decode_unchanged(ImageFile(self.read_bytes(path)))
        except ImageError as err:
            raise FrameLogError(f'{path} cannot be read ({why(err)})', wanted) from err
        if pixels.ndim != 2 or pixels.dtype != dtype:
            raise FrameLogError(f'{path} cannot be read', wanted)
        return pixels

    def read_bytes(self, path: Path) -> bytes:
        """Read one of its files; FrameLogError if it is missing or too large."""
        try:
            return read_bytes(path)
        except (OSError, ValueError) as err:
            raise FrameLogError(f'{path} cannot be read ({why(err)})') from err


def iter_frames(folder: Path | str, problems: list[str] | None = None) -> Iterator[LoggedFrame]:
    """
    Iterate over the frames of a log by name, that is by stamp; it may be being written.

    `problems` receives a sentence for each frame with an unreadable `frame.json`, which is left
    out. Raises FrameLogError if the folder is no frame log, or, without `problems`, a frame is
    damaged.
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

    Raises FrameLogError if it is missing, no JSON, of another version, or lacks required entries.
    """
    file = path / SIDECAR_FILE
    try:
        sidecar = parse_json(read_bytes(file, MAX_SIDECAR_BYTES))
        if sidecar['version'] != FORMAT_VERSION:
            raise FrameLogError(f'{file} has version {sidecar["version"]!r}', str(FORMAT_VERSION),
                                'read it with the uncertainty_seg that wrote it')
        str(sidecar['frame_id']), plain_name(sidecar['image']['file']), int(sidecar['stamp_ns'])
    except OSError as err:
        raise FrameLogError(f'{file} cannot be read ({err.strerror})') from err
    except (ValueError, TypeError, KeyError, OverflowError) as err:
        raise FrameLogError(f'{file} is damaged ({type(err).__name__}: {err})') from err
    return dict(sidecar)


def uncertainty_to_uint16(values: FloatMap) -> Any:
    """
    Convert an uncertainty map, (H, W) of float32 in 0..1 (clipped) or NaN, to uint16.

    The step is 1/65534, NaN becomes 65535. ShapeError if it is no map of float32.
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

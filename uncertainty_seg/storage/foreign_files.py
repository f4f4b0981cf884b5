# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Read foreign files within bounds: of their size, their nesting depth and the names in them.

A file out of bounds raises ValueError with the reason; the reader of the format converts it, like
that of a damaged file, to an error of one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import json
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal
import zipfile

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.image_codec import decode, ImageFile
from uncertainty_seg.errors import ConfigError, ImageError, UncertaintySegError
from uncertainty_seg.storage.parameter_files import require_plain_yaml

# More than an uncompressed image of the largest size.
MAX_IMAGE_BYTES = 2**29
# An export of Label Studio contains the images of its tasks.
MAX_JSON_BYTES = 2**30
MAX_YAML_BYTES = 2**18
# Budget of decompression: the first is for a chunk or message, enough for two images of the
# largest size. A whole file may expand to that plus the second times its size.
MAX_EXPANDED_BYTES, MAX_EXPANSION = 2**30, 100
# The metadata of a photograph is at the beginning.
_EXIF_WITHIN, _EXIF_ORIENTATION = 2**16, 0x0112
# The errors that reading a damaged, encrypted or unknown archive may raise.
ZIP_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError,
              zipfile.BadZipFile)


def as_paths(places: Path | str | Sequence[Path | str]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(path) for path in ([places] if isinstance(places, (str, Path)) else places)]


def most_expanded(file_bytes: int) -> int:
    """Return how many bytes a compressed file of this size may expand to."""
    return MAX_EXPANDED_BYTES + MAX_EXPANSION * file_bytes


def read_bytes(path: Path, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """
    Read a file; OSError if it cannot be read.

    ValueError if it has more than `limit` bytes or is no regular file: reading a pipe could block.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f'{path.name} is no regular file')
    with path.open('rb') as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f'{path.name} has more than {limit} bytes')
    return content


def read_arrays(content: bytes, kinds: Mapping[str, str], limit: int) -> dict[str, NDArray[Any]]:
    """
    Read arrays of a .npz file written by `numpy.savez`; Python objects are never unpickled.

    Raises one of `ZIP_ERRORS`: ValueError if an array has another dtype than `kinds` has for its
    name, or has more than `limit` bytes; KeyError if one is missing.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        for entry in archive.zip.infolist():
            # A compressed entry could expand without bound before its size is checked.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
                raise ValueError(f'{entry.filename} is compressed, or has more than {limit} bytes')
        found = {name: archive[name] for name in kinds}
    for name, array in found.items():
        if array.dtype != np.dtype(kinds[name]):
            raise ValueError(f'{name} is {array.dtype}, not {kinds[name]}')
    return found


def read_image_file(path: Path) -> ImageFile:
    """Read an image without decoding it; errors as of `read_bytes`."""
    return ImageFile(read_bytes(path))


def is_turned(file: ImageFile) -> bool:
    """Return whether the EXIF orientation of a JPEG rotates or mirrors its pixels."""
    data = bytes(file.data[:_EXIF_WITHIN])
    start = data.find(b'Exif\0\0') + 6
    if start < 6 or not data.startswith(b'\xff\xd8'):
        return False
    order: Literal['little', 'big'] = 'little' if data[start:start + 2] == b'II' else 'big'
    at = start + int.from_bytes(data[start + 4:start + 8], order)
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(data[at:at + 2], order), 12):
        if int.from_bytes(data[entry:entry + 2], order) == _EXIF_ORIENTATION:
            return int.from_bytes(data[entry + 8:entry + 10], order) > 1
    return False


def load_ignore_mask(path: str) -> NDArray[np.bool_] | None:
    """
    Read an ignore mask: bool (H, W), True where a pixel of any channel of the image is not 0.

    None for an empty path. Raises ConfigError if the file is missing or no image, or no pixel
    remains.
    """
    if not path:
        return None
    fix = 'set ignore_mask to a PNG that is white where pixels are left out and black elsewhere'
    try:
        picture = decode(read_image_file(Path(expanduser(path))))
    except (OSError, ValueError, ImageError) as err:
        raise ConfigError(f'ignore_mask {path!r} cannot be read', 'a picture',
                          f'{why(err)}; {fix}') from err
    mask: NDArray[np.bool_] = np.asarray(picture.any(axis=2))
    if mask.all():
        raise ConfigError(f'ignore_mask {path!r} leaves out every pixel', 'some that count', fix)
    return mask


def why(err: Exception) -> str:
    """Return the reason of an error as a part of another sentence."""
    if isinstance(err, UncertaintySegError):
        return err.reason
    text = err.strerror or str(err) if isinstance(err, OSError) else str(err)
    return ' '.join(text.split()) or type(err).__name__


def json_fault(err: Exception) -> str:
    """Return why a file cannot be read as JSON, without terms of Python."""
    if isinstance(err, json.JSONDecodeError):
        return f'it is damaged at line {err.lineno}, column {err.colno}' if err.doc.strip() \
            else 'it is empty'
    return 'it is no text in UTF-8' if isinstance(err, UnicodeDecodeError) else why(err)


def parse_json(content: bytes | str, **options: Any) -> Any:
    """Parse JSON as `json.loads` does; ValueError also if it is nested too deeply."""
    try:
        return json.loads(content, **options)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None


def parse_yaml(path: Path) -> Any:
    """
    Read a YAML file.

    ValueError if it is not YAML, is nested too deeply, or has a repeated key or an alias, which
    may expand without bound; ImportError without PyYAML.
    """
    import yaml

    text = read_bytes(path, MAX_YAML_BYTES).decode('utf-8')
    try:
        require_plain_yaml(text)
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        mark = getattr(err, 'problem_mark', None)
        where = 'its text' if mark is None else f'line {mark.line + 1}'
        raise ValueError(f'{where} is not understood') from err


def plain_name(name: Any) -> str:
    """Return the name of a file in its folder; ValueError if it is a path or not a name."""
    if not isinstance(name, str) or name in ('', '.', '..') or len(name.encode()) > 255 \
            or any(c in '/\\:' or ord(c) < 32 for c in name):
        raise ValueError(f'{str(name)[:80]!r} is not a plain file name')
    return name


def is_text(name: str) -> bool:
    """Return whether a file name can be written as text: Linux allows any bytes in it."""
    return not any('\ud800' <= character <= '\udfff' for character in name)

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Pictures of the frames of a page: drawn before it is written, or served on demand.

The server reads a frame from its bag, folder or log, and runs the model for mask and heatmap. It
accepts connections from this computer only.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import logging
from pathlib import Path
import re
import threading
from typing import Any, NamedTuple

import cv2
import numpy as np

from uncertainty_seg.calibration.report.pictures import fitted_size, jpeg_address
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import FrameView, HeatScale, overlay
from uncertainty_seg.data.selection import (
    decode_limits,
    LeftOut,
    open_model,
    read_table,
    scored_frames,
)
from uncertainty_seg.errors import ConfigError, UncertaintySegError
from uncertainty_seg.storage.frame_sources import Whereabouts
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.score_rows import FILE_COLUMN, TableInfo

_WIDTH_PX, _HEIGHT_PX, _QUALITY = 256, 192, 75
_COLUMNS = ('frame_key', 'dive', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'phash', 'height',
            'width', FILE_COLUMN)
_HERE = '127.0.0.1'
# Frames whose pictures a server caches, 40 kB each.
_KEPT = 500
_LOG = logging.getLogger(__name__)


def opened_model(info: TableInfo, where: Whereabouts) -> tuple[Pipeline | None, str]:
    """Open the model of a table; return None and the reason if that fails."""
    try:
        return open_model(info, where.find_bundle(info.model)), ''
    except (UncertaintySegError, OSError) as err:
        return None, ' '.join(str(err).split()).rstrip('.')


def pictures_of(
    table: Any, info: TableInfo, where: Whereabouts, model: Pipeline | None,
    scale: HeatScale | None,
) -> tuple[dict[str, list[str]], LeftOut]:
    """
    Return the ``data:`` addresses of image, mask and heatmap of each frame, by key.

    Also returns the frames that have no picture. Without a model there is only the image.
    """
    left_out, wanted = LeftOut(), table.to_pylist()
    found = {row['frame_key']: [''] for row in wanted}
    with progress(desc='pictures', total=len(wanted)) as bar:
        for row, frame, image in scored_frames(wanted, where, decode_limits(info), left_out):
            bar.update()
            made = [image]
            if model is not None and scale is not None:
                made += _painted(model, image, frame.stamp_ns, scale)
            found[row['frame_key']] = [small_picture(one) for one in made]
    return found, left_out


def _painted(
    model: Pipeline, image: ImageU8, stamp_ns: int, scale: HeatScale
) -> list[ImageU8]:
    """Return the overlay of the mask and the heatmap of an image."""
    view = FrameView(image, model.measure(image, stamp_ns), model.card, model.settings,
                     model.calibrated)
    # Without the flag: the verdict of the frame is in its row.
    return [overlay(image, view.mask, model.card.palette), view.plain_heatmap(scale)]


def small_picture(image_bgr: ImageU8) -> str:
    """Return a downscaled image as the ``data:`` address of a JPEG."""
    size = fitted_size(image_bgr, _WIDTH_PX, _HEIGHT_PX)
    small = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA)
    return jpeg_address(np.asarray(small, np.uint8), _QUALITY)


# -------------------------------------------------------------------------------------------------
# Served to a browser.


class ServedFrames(NamedTuple):
    """Where the frames of a page are read from, and how they are drawn."""

    tables: Sequence[Path]
    info: TableInfo
    where: Whereabouts
    scale: HeatScale | None


class PictureServer(ThreadingHTTPServer):
    """
    A page for browsers of this computer, with the pictures of every frame of its tables.

    Raises ConfigError if the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, page: Path, frames: ServedFrames, port: int) -> None:
        try:
            super().__init__((_HERE, port), _Answer)
        except (OSError, OverflowError) as err:
            raise ConfigError(f'port {port} cannot be used ({err})', 'a free one') from err
        self.page, self._frames, self._lock = page, frames, threading.Lock()
        self._rows = read_table(frames.tables, [], _COLUMNS)
        self._model, _ = opened_model(frames.info, frames.where)
        self._drawn = lru_cache(_KEPT)(self._draw)

    @property
    def address(self) -> str:
        """Return the URL of the page."""
        return f'http://{_HERE}:{self.server_port}/'

    def picture(self, row: int, place: int) -> bytes:
        """Return image (0), mask (1) or heatmap (2) of a frame as a JPEG; empty without one."""
        with self._lock:
            found = self._drawn(row)
        return base64.b64decode(found[place].partition(',')[2]) if place < len(found) else b''

    def _draw(self, row: int) -> list[str]:
        table, (_, info, where, scale) = self._rows.slice(row, 1), self._frames
        found, left_out = pictures_of(table, info, where, self._model, scale)
        for sentence in left_out.sentences:
            _LOG.warning('%s', sentence)
        return next(iter(found.values()), [])


class _Answer(BaseHTTPRequestHandler):
    """Answers a browser with the page, or with a picture at ``/frame/ROW/PLACE``."""

    server: PictureServer

    def do_GET(self) -> None:  # noqa: N802
        """Answer; refuse a foreign page whose host name resolves to this computer."""
        asked = re.fullmatch(r'/frame/([0-9]{1,9})/([0-2])', self.path)
        kind, content = 'image/jpeg', b''
        if (self.headers['Host'] or '').partition(':')[0] in (_HERE, 'localhost'):
            if self.path == '/':
                kind, content = 'text/html; charset=utf-8', self.server.page.read_bytes()
            elif asked:
                content = self.server.picture(int(asked[1]), int(asked[2]))
        with suppress(ConnectionError):  # the browser may have closed the connection
            self.send_response(200 if content else 404)
            self.send_header('Content-Type', kind)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Log no request."""

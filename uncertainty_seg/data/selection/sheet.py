# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The files of a selection: Parquet for the next step, CSV and a contact sheet for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from uncertainty_seg.calibration.report.page import number, render_page
from uncertainty_seg.calibration.report.pictures import fitted_size, jpeg_address
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.render import FrameView, overlay
from uncertainty_seg.core.settings import DecodeLimits, MAX_PIXELS, WIDEST
from uncertainty_seg.data.selection.pool import SelectionRequest
from uncertainty_seg.data.selection.run import high_scores, SelectionOutcome
from uncertainty_seg.errors import ConfigError, ModelBundleError, UncertaintySegError
from uncertainty_seg.storage.foreign_files import csv_text, why
from uncertainty_seg.storage.frame_sources import BadFrame, frames_at, Whereabouts
from uncertainty_seg.storage.perceptual_hash import hash_distance, perceptual_hash
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.score_rows import FILE_COLUMN, TableInfo
from uncertainty_seg.storage.whole_files import json_text, whole_file

if TYPE_CHECKING:
    from uncertainty_seg.core.pipeline import FrameResult, Pipeline

PARQUET, CSV, SHEET = 'selection.parquet', 'selection.csv', 'contact_sheet.html'
METADATA_KEY = b'uncertainty_seg.selection'
# First in the CSV; what follows is in the order of the table.
_LEADING = ('rank', 'reason', 'stands_for', 'high_scores', 'neighbours', 'strategy',
            'origin')


def require_place(folder: Path, is_replacing: bool) -> None:
    """Refuse a file, or a folder with a selection, unless it may be replaced, by a ConfigError."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f'{folder} is a file', 'a folder for the selection')
    if (folder / PARQUET).exists() and not is_replacing:
        raise ConfigError(f'{folder} holds a selection already', 'a new folder',
                          'give another --out, or --force to replace it')


def write_selection(folder: Path, found: SelectionOutcome) -> list[str]:
    """
    Write selection.parquet and selection.csv, each whole or not at all; return their names.

    Raises ConfigError if the folder, which is made, cannot be made, or a file not be written.
    """
    chosen = chosen_rows(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f'{folder} cannot be made ({err.strerror})',
                          'a folder that may be written to') from err

    def parquet(draft: Path) -> None:
        from pyarrow.parquet import write_table

        with draft.open('wb') as file:
            write_table(chosen, file, compression='zstd')

    write_whole(folder / PARQUET, parquet)
    write_whole(folder / CSV, lambda draft: _write_csv(draft, chosen))
    return [PARQUET, CSV]


def chosen_rows(found: SelectionOutcome) -> Any:
    """Return the chosen rows with rank, strategy, origin, reason and so on, a `pyarrow.Table`."""
    import pyarrow as pa

    selection = found.selection
    rows = found.table.take(pa.array(selection.rows))
    ends = {
        'rank': pa.array(range(1, len(rows) + 1), pa.int32()),
        'strategy': pa.array([found.request.strategy] * len(rows), pa.string()),
        'origin': pa.array(found.origins, pa.string()),
        'reason': pa.array(selection.reasons, pa.string()),
        'stands_for': pa.array(selection.stands_for, pa.int64()),
        'high_scores': pa.array(high_scores(found.table, found.info, selection.rows),
                                pa.string()),
        'neighbours': pa.array(selection.neighbours, pa.string()),
    }
    for name, values in ends.items():
        rows = rows.append_column(name, values)
    return rows.replace_schema_metadata({
        **(found.table.schema.metadata or {}), METADATA_KEY: json_text(found.summary()).encode()})


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """
    Write a file of a selection, whole or not at all.

    Raises ConfigError if it cannot be written; an older one stays as it was.
    """
    try:
        with whole_file(path) as draft:
            write(draft)
    except OSError as err:
        raise ConfigError(f'{path} cannot be written ({err.strerror})',
                          'a folder with room that may be written to') from err


def _write_csv(path: Path, chosen: Any) -> None:
    names = [*_LEADING, *(name for name in chosen.column_names
                          if name not in (*_LEADING, 'features', 'embedding'))]
    columns = [[_text(name, value) for value in chosen.column(name).to_pylist()]
               for name in names]
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([csv_text(name) for name in names])
        writer.writerows(zip(*columns, strict=True))


def _text(name: str, value: Any) -> str:
    if value is None:
        return ''
    if name == 'phash':  # a spreadsheet would round the number
        return f'{value:016x}'
    if isinstance(value, str):
        return csv_text(value)
    return f'{value:.7g}' if isinstance(value, float) else str(value)


# -------------------------------------------------------------------------------------------------
# The contact sheet: one page that needs nothing else, its pictures in it.

# Rows listed in the table of dives, and in the list of sources that could not be read.
_MAX_DIVES, _MAX_PROBLEMS = 60, 20


@dataclass(frozen=True)
class Card:
    """
    One frame on the sheet.

    Attributes
    ----------
    rank : int
        From 1.
    dive, time, score, reason, key : str
        Dive, time since its first frame, the score in words, the reason, and the frame's key.
    high, neighbours : str
        Which kinds of score are high; what is next to it, with score and distance.
    address : str or None
        ``data:`` address of its picture; None if it could not be had.
    mask, heatmap : str
        ``data:`` addresses of what the model makes of it; empty without the model.
    is_changed : bool
        Another picture is in its place now.

    """

    rank: int
    dive: str
    time: str
    score: str
    reason: str
    key: str
    address: str | None
    is_changed: bool = False
    high: str = ''
    neighbours: str = ''
    mask: str = ''
    heatmap: str = ''


def write_sheet(
    folder: Path, found: SelectionOutcome, max_pictures: int, where: Whereabouts,
    has_masks: bool = True,
) -> tuple[int, int]:
    """
    Read the pictures and write contact_sheet.html; an older one is removed if none is wanted.

    Raises ConfigError if the page cannot be written.

    Parameters
    ----------
    folder : Path
        A folder that exists.
    found : SelectionOutcome
        What was chosen.
    max_pictures : int
        Frames on the sheet, the first chosen first; with 0 there is no sheet.
    where : Whereabouts
        Where the sources are now.
    has_masks : bool
        With mask and heatmap of each, where the model of the table can be opened.

    Returns
    -------
    int, int
        Pictures that are grey; those of them in whose place another one is now.

    """
    if not max_pictures:
        (folder / SHEET).unlink(missing_ok=True)
        return 0, 0
    rows = found.selection.rows[:max_pictures]
    places = [place_of(found.table, int(row), where) for row in rows]
    settings = found.info.settings
    limits = DecodeLimits(int(settings.get('max_image_px', MAX_PIXELS)),
                          settings.get('oversized_images') == 'reduce')
    model = TableModel(found.info, where, has_masks)
    try:
        pictures = thumbnails(places, limits, model.pictures)
    finally:
        model.close()
    cards = _cards(found, places, pictures)
    page = sheet_page(found, cards, pictures.problems, model.why_not)
    data = page.encode(errors='backslashreplace')
    write_whole(folder / SHEET, lambda draft: draft.write_bytes(data))
    return sum(card.address is None for card in cards), len(pictures.changed)


def sheet_page(
    found: SelectionOutcome, cards: Sequence[Card], problems: Sequence[str], why_no_masks: str = ''
) -> str:
    """Return the page; equal choices and pictures make equal bytes."""
    count, dives = len(found.selection.rows), found.candidates.dives
    chosen = Counter(dives[found.selection.rows])
    changed = sum(card.is_changed for card in cards)
    return render_page(
        'contact_sheet.html', title=f'{count} frames to label', request=found.request,
        num_chosen=count, num_candidates=found.selection.num_candidates, remarks=found.remarks,
        cards=cards, num_changed=changed,
        num_unread=sum(card.address is None for card in cards) - changed,
        why_no_masks=why_no_masks, problems=problems, max_problems=_MAX_PROBLEMS,
        options=_options(found),
        dives=sorted(((name, size, chosen[name]) for name, size in Counter(dives).items()),
                     key=lambda dive: (-dive[2], dive[0])),
        num_dives_chosen=len(chosen), max_dives=_MAX_DIVES)


def _options(found: SelectionOutcome) -> list[tuple[str, str]]:
    request, chosen = found.request, found.selection
    pairs = [('model', found.info.model), ('strategy', request.strategy),
             ('score', request.score_name), ('seed', str(request.seed)),
             ('near duplicates left out', f'{chosen.num_duplicates} ({_alike(request)})'
              if _alike(request) else 'not looked for'),
             ('frames not scored', str(chosen.num_unscored))]
    if request.limit is not None:
        pairs.append(('limit', f'{request.limit:.6g}'))
    if request.strategy in ('power-bald', 'uncertainty-diversity'):
        pairs.append(('beta', f'{request.beta:g}'))
    if request.per_dive is not None:
        pairs.append(('a dive gives at most', str(request.per_dive)))
    if request.min_gap_s is None and chosen.gaps_s is not None and chosen.gaps_s.any():
        gaps = sorted({f'{gap:.2g} s' for gap in chosen.gaps_s})
        pairs.append(('least time between two, chosen for the dive', ', '.join(gaps[:4])))
    if request.min_gap_s:
        pairs.append(('least time between two', f'{request.min_gap_s:g} s'))
    return pairs


def _alike(request: SelectionRequest) -> str:
    """Say which frames count as near duplicates; empty if none do."""
    parts = []
    if request.min_distance:
        parts.append(f'fewer than {request.min_distance} bits')
    if request.min_feature_distance:
        parts.append(f'embeddings nearer than {request.min_feature_distance:g}')
    return ' or '.join(parts)


def _cards(
    found: SelectionOutcome, places: Sequence[PicturePlace], pictures: Pictures
) -> list[Card]:
    pool, selection = found.candidates, found.selection
    stamps = np.asarray(found.table.column('stamp_ns').to_numpy(), np.int64)
    starts: dict[str, int] = {}
    for dive, stamp in zip(pool.dives, stamps, strict=True):
        starts[dive] = min(stamp, starts.get(dive, stamp))
    high = high_scores(found.table, found.info, selection.rows[:len(places)])
    near = selection.neighbours or ('',) * len(selection.rows)
    return [Card(
        rank=rank, dive=pool.dives[row], key=pool.keys[row],
        # A picture of a folder has no time: its stamp is its place.
        time='' if place.kind == 'folder' else
        clock((int(stamps[row]) - starts[pool.dives[row]]) / 1e9),
        score=f'{found.request.score_name} {number(float(pool.scores[row]))}',
        reason=selection.reasons[rank - 1], address=pictures.addresses.get(place),
        is_changed=place in pictures.changed, high=high[rank - 1], neighbours=near[rank - 1],
        mask=pictures.masks.get(place, ''), heatmap=pictures.heatmaps.get(place, ''))
        for rank, (row, place) in enumerate(zip(selection.rows, places, strict=False), 1)]


def clock(seconds: float) -> str:
    """Write a time as h:mm:ss."""
    whole = int(seconds)
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'


def place_of(rows: Any, row: int, where: Whereabouts) -> PicturePlace:
    """Return where the frame of a row is now."""
    names = ('kind', 'topic', 'index', 'stamp_ns', 'phash', FILE_COLUMN)
    values = {name: rows.column(name)[row].as_py() for name in names if name in rows.column_names}
    return PicturePlace(where.find(rows.column('source')[row].as_py()), **values)


# -------------------------------------------------------------------------------------------------
# Small pictures of chosen frames, read from the bags, folders and logs they came from.
# A source may have changed since it was scored, and then another picture is in the same place:
# its stamp and its hash tell.

_WIDTH_PX, _HEIGHT_PX, _QUALITY = 256, 192, 75
# Bits of the hash: another release of a JPEG decoder rounds in another way.
_DECODERS_DIFFER = 2


@dataclass(frozen=True)
class PicturePlace:
    """
    Where a frame is, and how to know it again.

    Attributes
    ----------
    source, kind, topic, index : str, str, str, int
        Of its row.
    stamp_ns : int
        Of its row.
    phash : int or None
        Of its row; None where the table has none.
    file : str
        Name of a picture of a folder; empty where the table has none.

    """

    source: str
    kind: str
    topic: str
    index: int
    stamp_ns: int
    phash: int | None = None
    file: str = ''


@dataclass
class Pictures:
    """
    What was found.

    Attributes
    ----------
    addresses : dict of PicturePlace to str
        ``data:`` addresses of JPEGs; frames that cannot be had are left out.
    masks, heatmaps : dict of PicturePlace to str
        The same of what the model makes of them, where there is one.
    changed : set of PicturePlace
        Frames left out since another picture is in their place now.
    problems : list of str
        A sentence for every source that has changed, cannot be read, or not to its end.

    """

    addresses: dict[PicturePlace, str] = field(default_factory=dict)
    masks: dict[PicturePlace, str] = field(default_factory=dict)
    heatmaps: dict[PicturePlace, str] = field(default_factory=dict)
    changed: set[PicturePlace] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


# From an image and its stamp to pictures of its mask and its heatmap; None without a model.
Painter = Callable[[ImageU8, int], 'tuple[ImageU8, ImageU8] | None']


class TableModel:
    """
    The model of a table, for its masks; `why_not` says in words why there are none.

    Parameters
    ----------
    info : TableInfo
        Of the table.
    where : Whereabouts
        Where to look for the model that the table names.
    is_wanted : bool
        Open it.
    bundle : str
        Where it is now; empty to look for it.
    maps : sequence of str
        Maps that are wanted beside the usual ones.

    """

    def __init__(
        self, info: TableInfo, where: Whereabouts, is_wanted: bool, bundle: str = '',
        maps: Sequence[str] = (),
    ) -> None:
        self._pipeline: Pipeline | None = None
        self.why_not = 'they were not asked for'
        if not is_wanted:
            return
        try:
            self._pipeline = self._opened(info, bundle or where.find_bundle(info.model))
            self._pipeline.want(maps)
            self.why_not = ''
        except (UncertaintySegError, OSError) as err:
            self.why_not = ' '.join(str(err).split()).rstrip('.')

    @staticmethod
    def _opened(info: TableInfo, model: str) -> Pipeline:
        from uncertainty_seg.backends.opening import offline_settings
        from uncertainty_seg.backends.registry import open_pipeline
        from uncertainty_seg.core.settings import settings_from_dict
        from uncertainty_seg.storage.foreign_files import load_ignore_mask
        from uncertainty_seg.storage.model_bundle import load_bundle, model_digest

        settings = replace(settings_from_dict(dict(info.settings)), model=model,
                           backend='auto')
        bundle = load_bundle(settings.model)
        if model_digest(bundle.card) != info.model_sha256:
            raise ModelBundleError(f'{model!r} is another model than the one of the table',
                                   'the same files', 'score the sources again')
        return open_pipeline(bundle, offline_settings(bundle, settings),
                             load_ignore_mask(settings.ignore_mask))

    def measure(self, image_bgr: ImageU8, stamp_ns: int) -> FrameResult | None:
        """Return what the model makes of an image; None without it."""
        return None if self._pipeline is None else self._pipeline.measure(image_bgr, stamp_ns)

    def pictures(self, image_bgr: ImageU8, stamp_ns: int) -> tuple[ImageU8, ImageU8] | None:
        """Return the overlay of the mask and the heatmap of an image."""
        if self._pipeline is None:
            return None
        pipeline = self._pipeline
        view = FrameView(image_bgr, pipeline.measure(image_bgr, stamp_ns), pipeline.card,
                         pipeline.settings, pipeline.calibrated)
        # Without the flag: what the gate said of the frame is in its row.
        return overlay(image_bgr, view.mask, pipeline.card.palette), view.heatmap

    def close(self) -> None:
        """Close what was opened."""
        if self._pipeline is not None:
            self._pipeline.close()


def thumbnails(
    places: Sequence[PicturePlace], limits: DecodeLimits = WIDEST, paint: Painter | None = None
) -> Pictures:
    """
    Read frames and make them small; only those that are the frames that were scored.

    `limits` are those that they were scored with; `paint` makes what a model makes of them.

    Each source is read once, from its start to the last of the frames.
    """
    wanted: dict[tuple[str, str, str], dict[int, PicturePlace]] = {}
    for place in places:
        wanted.setdefault((place.source, place.kind, place.topic), {})[place.index] = place
    found = Pictures()
    with progress(desc='pictures', total=len(places)) as bar:
        for source, by_index in wanted.items():
            _read(source, by_index, found, bar, limits, paint)
            changed = len(found.changed.intersection(by_index.values()))
            if changed:
                found.problems.append(f'{source[0]} has changed since it was scored: {changed} of '
                                      'its frames are other pictures now; score it again')
    return found


def _read(
    source: tuple[str, str, str],
    by_index: dict[int, PicturePlace],
    found: Pictures,
    bar: tqdm[None],
    limits: DecodeLimits,
    paint: Painter | None,
) -> None:
    try:
        files = {index: place.file for index, place in by_index.items()}
        for frame in frames_at(*source, by_index, files):
            bar.update()
            if isinstance(frame, BadFrame):
                continue
            place = by_index[frame.index]
            try:
                image = decode(frame.raw, limits)
            except UncertaintySegError:
                continue
            if _is_same(place, frame.stamp_ns, image):
                found.addresses[place] = small_picture(image)
                painted = paint(image, frame.stamp_ns) if paint else None
                if painted is not None:
                    found.masks[place], found.heatmaps[place] = map(small_picture, painted)
            else:
                found.changed.add(place)
    except OSError as err:
        is_gone = not Path(source[0]).exists()
        found.problems.append(
            f'{source[0]} is not here: name the folder that holds it now with --root.' if is_gone
            else f'{source[0]} cannot be read ({why(err)}).')
    except (UncertaintySegError, KeyError) as err:
        found.problems.append(' '.join(str(err).split()))


def _is_same(place: PicturePlace, stamp_ns: int, image_bgr: ImageU8) -> bool:
    if stamp_ns != place.stamp_ns:
        return False
    return place.phash is None or \
        hash_distance(place.phash, perceptual_hash(image_bgr)) <= _DECODERS_DIFFER


def small_picture(image_bgr: ImageU8) -> str:
    """Return an image made small, as the ``data:`` address of a JPEG."""
    size = fitted_size(image_bgr, _WIDTH_PX, _HEIGHT_PX)
    small = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA)
    return jpeg_address(np.asarray(small, np.uint8), _QUALITY)

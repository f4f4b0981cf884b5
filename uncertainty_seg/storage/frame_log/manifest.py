# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The index of a frame log: one JSON line for each frame that was added or evicted.

It saves reading every `frame.json` at the start and stores the eviction thresholds. The folders
have precedence: where the index is missing, truncated or wrong, it is rebuilt from them. Only for
hidden frames does the index decide: they are removed if it says that they were evicted.

"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
from typing import Any

from uncertainty_seg.errors import FrameLogError
from uncertainty_seg.storage.foreign_files import parse_json
from uncertainty_seg.storage.frame_log import disk
from uncertainty_seg.storage.frame_log.format import FRAMES_FOLDER, MANIFEST_FILE, read_sidecar

RESERVOIRS = ('main', 'control')


@dataclass(frozen=True)
class Entry:
    """
    A frame in the index.

    Attributes
    ----------
    frame_id, reason, reservoir : str
        Name; why it was kept; which of `RESERVOIRS` it belongs to.
    key : float
        Its key there.
    num_bytes : int
        Disk space.

    """

    frame_id: str
    reason: str
    reservoir: str
    key: float
    num_bytes: int


@dataclass(frozen=True)
class Bar:
    """
    What the next start has to know of the frames that a reservoir has evicted.

    Attributes
    ----------
    key : float
        The eviction threshold: the largest key among them.
    largest : int
        Size in bytes of the largest frame that the reservoir has ever held.

    """

    key: float
    largest: int


@dataclass
class Index:
    """
    The content of a log.

    Attributes
    ----------
    entries : dict of str to Entry
        By frame id.
    bars, largest : dict of str to float, dict of str to int
        The content of a `Bar`, by reservoir, as far as known.
    evicted : set of str
        Evicted frames that the file on disk still names.
    num_leftovers : int
        Frames that were being written or removed when the last writer ended.
    problems : list of str
        A sentence for each folder that is no readable frame; these are left alone.

    """

    entries: dict[str, Entry] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESERVOIRS, -math.inf))
    largest: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESERVOIRS, 0))
    evicted: set[str] = field(default_factory=set)
    num_leftovers: int = 0
    problems: list[str] = field(default_factory=list)


def load_index(folder: Path) -> Index:
    """
    Read the content of a log and remove the remains of a crash; for its one writer.

    The index agrees with the folders. A reservoir from which somebody else has removed frames
    admits any key again. OSError if the disk refuses.
    """
    index = _read(folder / MANIFEST_FILE)
    num_unfinished, leaving = disk.sweep(folder, index.evicted)
    index.num_leftovers = num_unfinished + len(leaving)
    there = disk.frame_names(folder)
    for frame_id in leaving:
        gone = index.entries.pop(frame_id, None)
        if gone is not None:
            index.bars[gone.reservoir] = max(index.bars[gone.reservoir], gone.key)
    missing = set(index.entries) - set(there)
    lost = {index.entries.pop(frame_id).reservoir for frame_id in missing}
    for frame_id in there:
        if frame_id not in index.entries:
            _add_from_folder(index, folder / FRAMES_FOLDER / frame_id)
    for reservoir in lost:
        index.bars[reservoir] = -math.inf
    return index


def write_index(folder: Path, index: Index) -> None:
    """Rewrite the index, whole or not at all; OSError if the disk refuses."""
    lines = [_bar_line(name, Bar(bar, index.largest[name])) for name, bar in index.bars.items()
             if bar > -math.inf]
    lines += [_line('add', dataclasses.asdict(entry)) for entry in index.entries.values()]
    disk.replace_file(folder / MANIFEST_FILE, ''.join(lines).encode())


def note_change(
    folder: Path, reservoir: str, bar: Bar | None, gone: Iterable[str], added: Entry | None
) -> None:
    """
    Append a change of a reservoir; evictions are flushed to the disk when this returns.

    The parameters are those of `store.replace_frames`. OSError if the disk refuses.
    """
    lines = [_line('evict', {'frame_id': frame_id}) for frame_id in gone]
    is_decided = bool(lines)
    lines += [_bar_line(reservoir, bar)] if bar is not None else []
    lines += [_line('add', dataclasses.asdict(added))] if added is not None else []
    disk.append_line(folder / MANIFEST_FILE, ''.join(lines), is_decided)


def _line(verb: str, facts: dict[str, Any]) -> str:
    return json.dumps({'op': verb, **facts}) + '\n'


def _bar_line(reservoir: str, bar: Bar) -> str:
    # JSON has no infinity: null is the threshold that admits any key.
    key = bar.key if bar.key > -math.inf else None
    return _line('bar', {'reservoir': reservoir, 'key': key, 'largest': bar.largest})


def _read(path: Path) -> Index:
    index = Index()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return index
    for line in lines:
        try:
            if not line.endswith(b'\n'):
                raise ValueError('cut off')
            _apply(index, parse_json(line))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            continue  # after a crash; the folders decide
    return index


def _apply(index: Index, raw: dict[str, Any]) -> None:
    verb = raw.pop('op')
    if verb == 'add':
        entry = Entry(str(raw['frame_id']), str(raw['reason']), str(raw['reservoir']),
                      float(raw['key']), int(raw['num_bytes']))
        index.bars[entry.reservoir]  # KeyError if there is no such reservoir
        index.entries[entry.frame_id] = entry
        index.evicted.discard(entry.frame_id)
    elif verb == 'evict':
        index.entries.pop(raw['frame_id'], None)
        index.evicted.add(raw['frame_id'])
    elif verb == 'bar':
        name = raw['reservoir']
        index.bars[name]
        key = -math.inf if raw['key'] is None else float(raw['key'])
        index.largest[name] = int(raw.get('largest', 0))
        index.bars[name] = key


def _add_from_folder(index: Index, path: Path) -> None:
    try:
        sidecar = read_sidecar(path)
        facts = sidecar['reservoir']
        entry = Entry(path.name, str(sidecar['reason']), str(facts['name']), float(facts['key']),
                      disk.folder_bytes(path))
        bar = -math.inf if facts.get('bar') is None else float(facts['bar'])
        index.bars[entry.reservoir] = max(index.bars[entry.reservoir], bar)
    except (FrameLogError, ValueError, TypeError, KeyError, OverflowError) as err:
        index.problems.append(f'{path} is left alone: {type(err).__name__}: {err}')
        return
    index.entries[entry.frame_id] = entry

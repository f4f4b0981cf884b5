# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The index of a frame log: one JSON line for each frame that came or went.

It saves reading every `frame.json` at the start and remembers which keys had to go. The folders
are the truth: where the index is missing, cut off or wrong, it is made again from them.

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
from uncertainty_seg.storage.frame_log_disk import folder_bytes, frame_names, replace_file
from uncertainty_seg.storage.frame_log_format import FRAMES_FOLDER, MANIFEST_FILE, read_sidecar

RESERVOIRS = ('main', 'control')


@dataclass(frozen=True)
class Entry:
    """
    A frame in the index.

    Attributes
    ----------
    frame_id, reason, reservoir : str
        Name; why it was kept; which of `RESERVOIRS` holds it.
    key : float
        Its key there.
    num_bytes : int
        On disk.

    """

    frame_id: str
    reason: str
    reservoir: str
    key: float
    num_bytes: int


@dataclass
class Index:
    """
    What is in a log.

    Attributes
    ----------
    entries : dict of str to Entry
        By frame id.
    bars : dict of str to float
        Largest key that had to go, by reservoir.
    is_current : bool
        The file on disk says the same.
    lost : set of str
        Reservoirs that somebody else took frames from.
    problems : list of str
        A sentence for each folder that is no readable frame; these are left alone.

    """

    entries: dict[str, Entry] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESERVOIRS, -math.inf))
    is_current: bool = True
    lost: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def load_index(folder: Path, evicted: Iterable[str] = ()) -> Index:
    """
    Find out what is in a log.

    Parameters
    ----------
    folder : Path
        The log.
    evicted : iterable of str
        Frames that a crash interrupted us in removing.

    Returns
    -------
    Index
        In agreement with the folders.

    Raises
    ------
    OSError
        If the disk cannot be read.

    """
    index = _read(folder / MANIFEST_FILE)
    there = frame_names(folder)
    for frame_id in evicted:
        gone = index.entries.pop(frame_id, None)
        if gone is not None:
            index.bars[gone.reservoir] = max(index.bars[gone.reservoir], gone.key)
            index.is_current = False
    for frame_id in set(index.entries) - set(there):
        index.lost.add(index.entries.pop(frame_id).reservoir)
        index.is_current = False
    for frame_id in there:
        if frame_id not in index.entries:
            index.is_current = False
            _add_from_folder(index, folder / FRAMES_FOLDER / frame_id)
    return index


def write_index(folder: Path, index: Index) -> None:
    """Write the index anew, whole or not at all; OSError if the disk refuses."""
    lines = [_bar_line(name, bar) for name, bar in index.bars.items() if bar > -math.inf]
    lines += [_line('add', dataclasses.asdict(entry)) for entry in index.entries.values()]
    replace_file(folder / MANIFEST_FILE, ''.join(lines).encode())


def note_added(folder: Path, entry: Entry) -> None:
    """Append that a frame came; OSError if the disk refuses."""
    _append(folder, _line('add', dataclasses.asdict(entry)))


def note_evicted(folder: Path, entry: Entry, bar: float) -> None:
    """Append that a frame had to go; OSError if the disk refuses."""
    _append(folder, _line('evict', {'frame_id': entry.frame_id}) + _bar_line(entry.reservoir, bar))


def _line(verb: str, facts: dict[str, Any]) -> str:
    return json.dumps({'op': verb, **facts}) + '\n'


def _bar_line(reservoir: str, bar: float) -> str:
    return _line('bar', {'reservoir': reservoir, 'key': bar})


def _append(folder: Path, text: str) -> None:
    with (folder / MANIFEST_FILE).open('a') as file:
        file.write(text)


def _read(path: Path) -> Index:
    index = Index()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        index.is_current = False
        return index
    for line in lines:
        try:
            if not line.endswith(b'\n'):
                raise ValueError('cut off')
            _apply(index, json.loads(line))
        except (ValueError, TypeError, KeyError):
            index.is_current = False  # of a crash; the folders know better
    return index


def _apply(index: Index, raw: dict[str, Any]) -> None:
    verb = raw.pop('op')
    if verb == 'add':
        entry = Entry(str(raw['frame_id']), str(raw['reason']), str(raw['reservoir']),
                      float(raw['key']), int(raw['num_bytes']))
        index.bars[entry.reservoir]  # KeyError: of no reservoir of ours
        index.entries[entry.frame_id] = entry
    elif verb == 'evict':
        index.entries.pop(raw['frame_id'], None)
    elif verb == 'bar':
        index.bars[raw['reservoir']] = max(index.bars[raw['reservoir']], float(raw['key']))


def _add_from_folder(index: Index, path: Path) -> None:
    try:
        sidecar = read_sidecar(path)
        facts = sidecar['reservoir']
        entry = Entry(path.name, str(sidecar['reason']), str(facts['name']), float(facts['key']),
                      folder_bytes(path))
        bar = -math.inf if facts.get('bar') is None else float(facts['bar'])
        index.bars[entry.reservoir] = max(index.bars[entry.reservoir], bar)
    except (FrameLogError, ValueError, TypeError, KeyError) as err:
        index.problems.append(f'{path} is left alone: {type(err).__name__}: {err}')
        return
    index.entries[entry.frame_id] = entry

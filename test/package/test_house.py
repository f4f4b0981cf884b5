# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The limits of the layout: how many modules, how many in a folder, no circle, no name twice.

The figures by themselves: `python test/helpers/house.py`. Who may import whom is in test_imports.

"""

from __future__ import annotations

from pathlib import Path

from house import circles, classes_twice, crowded, import_graph, line_counts, modules, ROOT, SOURCE

MOST_MODULES = 321
MOST_IN_A_FOLDER = 26


def test_the_package_has_no_more_modules_than_its_layout_allows() -> None:
    assert len(modules()) <= MOST_MODULES


def test_no_folder_is_crowded() -> None:
    for root in (SOURCE, ROOT / 'test'):
        assert crowded(root, MOST_IN_A_FOLDER) == {}


def test_no_class_name_stands_for_two_things() -> None:
    assert classes_twice() == {}


def test_no_module_imports_itself_by_way_of_others_not_even_late() -> None:
    graph = import_graph()
    assert sum(len(imported) for imported in graph.values()) > len(graph)
    assert circles(graph) == []


# --- each of them notices what it is for ---------------------------------------------------------


def package(folder: Path, **sources: str) -> Path:
    """Write modules; `__` in a name is a folder, and a trailing one its `__init__`."""
    for name, source in sources.items():
        parts = name.split('__')
        path = folder.joinpath(*parts[:-1], f'{parts[-1] or "__init__"}.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding='utf-8')
    return folder


def test_a_circle_is_found_however_it_is_imported(tmp_path: Path) -> None:
    root = package(
        tmp_path, a='from uncertainty_seg.b import f', c='import uncertainty_seg.room.d',
        b='def f():\n    from uncertainty_seg import c', room__d='from .. import a',
        e='from uncertainty_seg.b import f\nimport os', room__='from . import d')
    assert circles(import_graph(root)) == [['a', 'b', 'c', 'room.d']]
    assert import_graph(root)['room'] == {'room.d'}


def test_a_module_that_imports_a_name_of_its_package_closes_a_circle(tmp_path: Path) -> None:
    root = package(tmp_path, room__='from uncertainty_seg.room.d import f',
                   room__d='from uncertainty_seg.room import g')
    assert circles(import_graph(root)) == [['room', 'room.d']]


def test_a_class_name_in_two_modules_is_found_with_both(tmp_path: Path) -> None:
    root = package(tmp_path, a='class A:\n    class B: pass', b='class B: pass')
    assert classes_twice(root) == {'B': ['a', 'b']}


def test_a_crowded_folder_is_found_with_its_number(tmp_path: Path) -> None:
    root = package(tmp_path, room__a='', room__b='', c='')
    assert crowded(root, 1) == {'room': 2}


def test_each_line_is_counted_as_what_it_is() -> None:
    source = ('"""\nOf the module.\n\n"""\n\n# A comment.\nfrom os import (\n    path,\n)\n'
              'def f():\n    """Of f."""\n    import sys\n    return """\ntext\n"""\n')
    assert line_counts(source) == {'docstring': 5, 'import': 4, 'code': 4, 'other': 2}

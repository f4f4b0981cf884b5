# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The limits of the layout: its budget, no import cycles, no class name twice.

`python test/helpers/house.py` prints the figures. test_imports has the allowed imports.
"""

from pathlib import Path

from house import BUDGET, circles, classes_twice, crowded, figures, import_graph, ROOT, SOURCE


def test_the_package_keeps_to_its_budget() -> None:
    found = figures()
    assert {words: (found[words], most) for words, most in BUDGET.items()
            if found[words] > most} == {}
    assert crowded(ROOT / 'test', BUDGET['most files in a folder']) == {}


def test_no_folder_holds_a_single_module() -> None:
    assert [folder for folder, count in crowded(SOURCE, 0).items() if count == 1] == []


def test_no_class_name_stands_for_two_things() -> None:
    assert classes_twice() == {}


def test_no_module_imports_itself_by_way_of_others_not_even_late() -> None:
    graph = import_graph()
    assert sum(len(imported) for imported in graph.values()) > len(graph)
    assert circles(graph) == []


# --- each check detects a violation --------------------------------------------------------------


def package(folder: Path, **sources: str) -> Path:
    """Write modules; `__` in a name separates folders, a trailing `__` means `__init__`."""
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
    root = package(tmp_path / 'names', room__='from uncertainty_seg.room.d import f',
                   room__d='from uncertainty_seg.room import g')
    assert circles(import_graph(root)) == [['room', 'room.d']]


def test_a_class_name_in_two_modules_is_found_with_both(tmp_path: Path) -> None:
    root = package(tmp_path, a='class A:\n    class B: pass', b='class B: pass')
    assert classes_twice(root) == {'B': ['a', 'b']}

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Wrong command lines of `uncertainty_seg compile`: one sentence each, written by the package.

A sentence states the given and the expected value. It does not repeat messages of Python, the
system or a library, except those of the user's own code.
"""

from collections.abc import Callable
import os
from pathlib import Path
import re
import sys

import pytest

from uncertainty_seg.cli.main import main
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import require_place

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, planes=3):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop = nn.Conv2d(planes, 8, 3, 2, 1), nn.Dropout2d(0.4)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.last(self.drop(self.first(x).relu()))


class Even(Net):
    def forward(self, x):
        return super().forward(x) + x[:, :, ::2, ::2][..., :x.shape[-1] // 2]


def grey():
    return Net(1)


def needs(size):
    return Net()
"""
# Fragments of messages of parsers, the system, torch or protobuf.
FOREIGN = re.compile(
    r"\[Errno|Error\(|Error:|invalid literal|must be in range|has no len|'NoneType|object is not|"
    'Wire format|deserializ|codec|char 0|<unicode|\\.partial|https:')
ALWAYS = {'net': 'nets_of_misuse:Net', '--input': '48x32', '--classes': 'classes.yaml',
          '-o': 'bundle'}
FILES = {
    'classes.yaml': b'classes: [a, b, c]\n', 'number.yaml': b'classes: 5\n', 'five.yaml': b'5\n',
    'empty.yaml': b'', 'binary.yaml': b'\xff\xfe\x00', 'open.yaml': b'classes: [a, b\n',
    'open.json': b'{', 'mapped.yaml': b'classes: {0: a, 1: b}\n', 'none.yaml': b'classes: []\n',
    'names.yaml': b'names: [a, b]\n', 'rgb.yaml': b'classes: [{id: 0, name: a, rgb: [1, 2]}]\n',
    'id.yaml': b'classes: [{id: x, name: a, rgb: [1, 2, 3]}]\n',
    'ignored.yaml': b'classes: [a, b]\nignore_index: 300\n',
    'many.yaml': b'classes: [' + b', '.join(b'c%d' % k for k in range(300)) + b']\n',
    'junk.onnx': b'hello\n', 'empty.onnx': b'', 'junk.safetensors': bytes(range(256)),
    'junk.pt': bytes(range(200, 256)), 'key.pem': b'-----BEGIN PRIVATE KEY-----\nx\n',
}


def run(words: dict[str, str | list[str] | None], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line with changed or added arguments; return the sentence of the refusal."""
    line = ['compile']
    for name, value in {**ALWAYS, **words}.items():
        values = [value] if isinstance(value, str) else value or []
        line += values if name == 'net' else [name, *values]
    try:
        code = main(line)
    except SystemExit as end:
        code = int(str(end.code))
    said = capsys.readouterr().err
    assert code == 2 and said.count('\n') == 1 and not FOREIGN.search(said), said
    assert said.startswith('uncertainty_seg compile: ') and len(said) < 400
    assert not Path('bundle').exists()
    return said


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    (tmp_path / 'nets_of_misuse.py').write_text(NETS)
    (tmp_path / 'folder.onnx').mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'nets_of_misuse', raising=False)
    return lambda words: run(words, capsys)


LINES: dict[str, tuple[dict, str]] = {
    'a part of an ONNX file': ({'net': 'junk.onnx'}, 'is no ONNX file, or only a part of one'),
    'an empty ONNX file': ({'net': 'empty.onnx'}, 'empty.onnx holds no network'),
    'a folder for a file': ({'net': 'folder.onnx'}, 'folder.onnx is a folder'),
    'no ONNX file': ({'net': 'no.onnx'}, 'no.onnx is missing'),
    'weights for a network': ({'net': 'net.pt'}, 'net.pt'),
    'a file of another kind': ({'net': 'net.pt2'}, 'net.pt2.*ONNX'),
    'a path to Python': ({'net': 'nets/my.py:build'}, 'in the folder of the file, my:build'),
    'no module': ({'net': ':build'}, 'expected net.onnx or package.module:function'),
    'no function': ({'net': 'nets_of_misuse:nothing'}, "has no function 'nothing'"),
    'no such module': ({'net': 'no_such_nets:build'}, r'PYTHONPATH=FOLDER:\$PYTHONPATH'),
    'a function with arguments': ({'net': 'nets_of_misuse:needs'}, r'needs\(\) needs size'),
    'no size': ({'--input': '0x5'}, '0x5'),
    'an immense size': ({'--input': '99999x99999'}, 'expected 8 to 8192 pixels a side'),
    'half a size': ({'--input': '48'}, 'expected WIDTHxHEIGHT'),
    'a size of strange digits': ({'--input': '\u00b2x5'}, 'expected WIDTHxHEIGHT'),
    'a mean that is no number': ({'--mean': ['nan', '0', '0']}, 'nan'),
    'an infinite deviation': ({'--std': ['inf', '1', '1']}, 'inf'),
    'a deviation of 0': ({'--std': ['0', '1', '1']}, '0.0'),
    'a mean of bytes': ({'--mean': ['123.675', '116.28', '103.53']}, 'divide .* by 255'),
    'classes that are a number': ({'--classes': 'number.yaml'}, '"classes" is no list'),
    'a number for a table': ({'--classes': 'five.yaml'}, 'five.yaml holds no table'),
    'an empty table': ({'--classes': 'empty.yaml'}, 'empty.yaml is empty'),
    'no text': ({'--classes': 'binary.yaml'}, 'it is no text'),
    'half a YAML': ({'--classes': 'open.yaml'}, 'open.yaml'),
    'half a JSON': ({'--classes': 'open.json'}, 'open.json'),
    'a mapping of classes': ({'--classes': 'mapped.yaml'}, '"classes" is no list'),
    'no class': ({'--classes': 'none.yaml'}, 'none.yaml'),
    'no classes': ({'--classes': 'names.yaml'}, 'names.yaml'),
    'two thirds of a colour': ({'--classes': 'rgb.yaml'}, 'class 0'),
    'a name for an id': ({'--classes': 'id.yaml'}, 'class 0'),
    'a large ignore_index': ({'--classes': 'ignored.yaml'}, 'ignore_index is 300'),
    'many classes': ({'--classes': 'many.yaml'}, '1 to 255'),
    'no file of classes': ({'--classes': 'no.yaml'}, 'no.yaml is missing.*table of classes'),
    'a folder of classes': ({'--classes': 'folder.onnx'}, 'is a folder.*table of classes'),
    'a file for a bundle': ({'-o': 'classes.yaml'}, 'classes.yaml is a file'),
    'a bundle below a file': ({'-o': 'five.yaml/bundle'}, 'five.yaml is no folder'),
    'no weights': ({'--weights': 'no.pt'}, 'no weights at no.pt'),
    'a folder of weights': ({'--weights': '.'}, r'\. is a folder'),
    'damaged safetensors': ({'--weights': 'junk.safetensors'}, 'cannot be loaded .it is damaged'),
    'damaged weights': ({'--weights': 'junk.pt'}, 'junk.pt'),
    'an output of another name': ({'--output': 'out'}, r'did you mean output\?$'),
    'a variance of another name': ({'--method': 'direct', '--variance': 'no'},
                                   "has no output 'no', expected one of output: name that of"),
    'a size that the net does not take': (
        {'net': 'nets_of_misuse:Even', '--input': '47x32'},
        r'\(1, 3, 32, 47\), and takes one of \(1, 3, 32, 48\)'),
    'an image of one plane': ({'net': 'nets_of_misuse:grey'}, 'takes images of 1 planes and not'),
    'a precision of its own': ({'--precision': 'fp8'}, 'invalid choice'),
    'no rate': ({'--inject-dropout': '1.5'}, 'expected a rate between 0 and 1'),
}


@pytest.mark.torch
@pytest.mark.parametrize('case', LINES)
def test_a_wrong_command_line_is_refused_in_a_sentence(
    case: str, refused: Callable[..., str]
) -> None:
    pytest.importorskip('torch')
    words, expected = LINES[case]
    assert re.search(expected, refused(words))


def test_a_key_that_is_none_is_refused_in_a_sentence(refused: Callable[..., str]) -> None:
    pytest.importorskip('cryptography')
    assert 'damaged, or no PEM file' in refused({'--sign': 'key.pem'})


def test_a_place_is_looked_at_before_the_work_and_left_as_it_was(tmp_path: Path) -> None:
    require_place(tmp_path / 'new' / 'bundle')
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelBundleError, match='/proc may not be written to'):
        require_place(Path('/proc/x'))
    (tmp_path / 'note').write_text('')
    with pytest.raises(ModelBundleError, match='exists and holds no card.json'):
        require_place(tmp_path)
    if os.getuid():
        (tmp_path / 'shut').mkdir(mode=0o500)
        with pytest.raises(ModelBundleError, match='shut may not be written to'):
            require_place(tmp_path / 'shut' / 'bundle')

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Weights load from every usual kind of file, or the error names the keys that do not fit."""

from collections import OrderedDict
import os
from pathlib import Path
import pickle
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402

from uncertainty_seg.compiler.capture.export import load_weights  # noqa: E402
from uncertainty_seg.errors import TrainingError  # noqa: E402

pytestmark = pytest.mark.torch


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(OrderedDict(a=nn.Conv2d(3, width, 1), norm=nn.BatchNorm2d(width),
                                     b=nn.Conv2d(width, 2, 1)))


def state(prefix: str = '') -> dict:
    torch.manual_seed(1)
    return {prefix + k: torch.ones_like(v) if v.dtype == torch.long else torch.randn(v.shape)
            for k, v in net().state_dict().items()}


def assert_loaded(path: Path) -> None:
    found = net()
    load_weights(found, path)
    assert all(torch.equal(v, state()[k]) for k, v in found.state_dict().items())


@pytest.mark.parametrize('wrap', [
    lambda: state(), lambda: {'state_dict': state(), 'epoch': 3}, lambda: {'model': state()},
    lambda: {'model_state_dict': state()}, lambda: state('module.'), lambda: state('_orig_mod.'),
    lambda: {'model': {'state_dict': state('module.')}}, lambda: state('module._orig_mod.'),
])
def test_every_usual_wrapping_is_taken_off(tmp_path: Path, wrap) -> None:
    torch.save(wrap(), tmp_path / 'w.pt')
    assert_loaded(tmp_path / 'w.pt')


def test_safetensors_load(tmp_path: Path) -> None:
    library = pytest.importorskip('safetensors.torch')
    library.save_file(state('module.'), tmp_path / 'w.safetensors')
    assert_loaded(tmp_path / 'w.safetensors')


def test_safetensors_without_the_library_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'w.safetensors').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(TrainingError, match=r"not installed: pip install '\.\[nets\]'"):
        load_weights(net(), tmp_path / 'w.safetensors')


def test_weights_of_another_net_are_refused_by_their_keys_and_change_nothing(
    tmp_path: Path
) -> None:
    foreign = state()
    del foreign['a.weight']
    foreign |= {f'extra.{n}': torch.zeros(1) for n in range(5)}
    foreign['b.weight'] = torch.zeros(7, 4, 1, 1)
    torch.save(foreign, tmp_path / 'w.pt')
    target = net()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    said = (r'1 missing \(a.weight\); 5 unexpected \(extra.0, extra.1, extra.2, ...\); '
            r'1 of another shape \(b.weight \(7, 4, 1, 1\) for \(2, 4, 1, 1\)\)')
    with pytest.raises(TrainingError, match=said):
        load_weights(target, tmp_path / 'w.pt')
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


class _Code:
    """An object whose unpickling would run code."""


@pytest.mark.parametrize(('content', 'message'), [
    (None, 'no weights at'), (b'', 'w.pt is empty'),
    (b'epoch 1\nloss 0.3\n', 'w.pt'),
    (b'\x1b[31m\xff\n', 'w.pt'),
    ([1, 2], 'holds list, expected a state dict'), ({}, 'holds no tensor, but nothing'),
    ({'epoch': 1, 'optimizer': {}}, 'holds no tensor, but epoch, optimizer'),
    (torch.zeros(2), 'holds Tensor'), (pickle, 'w.pt'),
    (_Code(), r'an object of \S+\._Code, which could run code when it is loaded, expected'),
    (os.system, r'an object of \w+\.system, which could run code when it is loaded, expected'),
    (net(), r'an object of torch\.nn\.\S+\.Sequential, .*: save net.state_dict\(\) alone'),
    ({'model': state(), 'best': np.float64(1)}, r'an object of numpy\.\S+\.scalar, which'),
])
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / 'w.pt'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is pickle:
        path.write_bytes(pickle.dumps({'a': 1}, protocol=2)[:-3])
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(TrainingError, match=message) as caught:
        load_weights(net(), path)
    said = str(caught.value).replace(str(path), 'w.pt')
    # One line of printable ASCII, at most two lines of a terminal.
    assert said.isascii() and said.isprintable() and len(said) < 220

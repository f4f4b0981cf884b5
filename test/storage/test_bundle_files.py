# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Every file of a bundle is hashed; external weights and random operators are found anywhere."""

import dataclasses
import hashlib
from pathlib import Path
import shutil
import subprocess

from cases import for_each
from conftest import make_tiny_bundle, tiny_card, tiny_head, tiny_trunk
import onnx
from onnx import helper, TensorProto
import pytest

from uncertainty_seg.core.model_card import card_from_json, card_to_json
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import (
    load_bundle,
    shipped_bundles,
    update_measured,
    write_bundle,
)

FILES = ('card.json', 'calibration.json', 'trunk.onnx', 'passes.onnx')


def bundle_of(folder: Path, head: onnx.ModelProto, **more: bytes) -> Path:
    """Write a bundle with another head and `more` files; `__` in a name stands for a dot."""
    files = {'trunk.onnx': tiny_trunk().SerializeToString(),
             'passes.onnx': head.SerializeToString()}
    write_bundle(folder, tiny_card(), files | {
        name.replace('__', '.'): data for name, data in more.items()})
    return folder


# --- the list of hashes --------------------------------------------------------------------------


@for_each('name', FILES)
def test_a_byte_changed_in_any_file_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    folder = make_tiny_bundle(tmp_path / name)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelBundleError, match=name):
        load_bundle(folder)


@for_each('name', FILES)
def test_a_file_that_is_read_and_not_listed_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_tiny_bundle(tmp_path / name)
    hashes = folder / 'SHA256SUMS'
    hashes.write_text(''.join(line for line in hashes.read_text().splitlines(keepends=True)
                              if name not in line))
    with pytest.raises(ModelBundleError, match=name):
        load_bundle(folder)


def test_a_truncated_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path / 'tiny')
    (folder / 'trunk.onnx').write_bytes((folder / 'trunk.onnx').read_bytes()[:50])
    with pytest.raises(ModelBundleError, match='trunk.onnx'):
        load_bundle(folder)
    (folder / 'trunk.onnx').unlink()
    with pytest.raises(ModelBundleError, match=r'trunk\.onnx'):
        load_bundle(folder)


@for_each('change', [
    lambda text: text.partition('\n')[2],
    lambda text: text.partition('\n')[0],
    lambda text: text + text.splitlines()[1] + '\n',
    lambda text: text + f'{"0" * 64}  ../outside\n',
    lambda text: text + f'{"0" * 64}  /etc/passwd\n',
    lambda text: text + 'trunk.onnx\n',
    lambda text: '',
    lambda text: text + 'x' * 10**6,
])
def test_a_list_that_is_none_is_refused(tmp_path: Path, change: object) -> None:
    folder = make_tiny_bundle(tmp_path / 'tiny')
    hashes = folder / 'SHA256SUMS'
    hashes.write_text(change(hashes.read_text()))
    with pytest.raises(ModelBundleError, match='SHA256SUMS'):
        load_bundle(folder)


def test_two_digests_that_differ_at_their_ends_are_told_apart(tiny_bundle: Path) -> None:
    hashes = tiny_bundle / 'SHA256SUMS'
    digest = hashlib.sha256((tiny_bundle / 'card.json').read_bytes()).hexdigest()
    other = digest[:-1] + ('1' if digest.endswith('0') else '0')
    hashes.write_text(hashes.read_text().replace(digest, other))
    with pytest.raises(ModelBundleError, match=f'{digest}.*{other}'):
        load_bundle(tiny_bundle)


def test_a_bundle_of_before_the_list_loads_with_a_warning(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tiny_bundle / 'SHA256SUMS').unlink()
    assert load_bundle(tiny_bundle).calibration is not None
    assert 'has no SHA256SUMS' in caplog.text
    update_measured(load_bundle(tiny_bundle), {}, '')
    caplog.clear()
    load_bundle(tiny_bundle)
    assert caplog.text == ''


@pytest.mark.skipif(shutil.which('sha256sum') is None, reason='no sha256sum')
def test_the_shipped_bundles_are_listed_and_sha256sum_agrees() -> None:
    for folder in shipped_bundles().values():
        listed = {line.split('  ')[1] for line in
                  (folder / 'SHA256SUMS').read_text().splitlines()[1:]}
        assert listed == {path.name for path in folder.iterdir()} - {'SHA256SUMS'}
        subprocess.run(['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'],
                       cwd=folder, check=True)


def test_a_card_that_contradicts_the_list_is_refused(tiny_bundle: Path) -> None:
    path, hashes = tiny_bundle / 'card.json', tiny_bundle / 'SHA256SUMS'
    card = card_from_json(path.read_bytes())
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(card_to_json(dataclasses.replace(
        card, sha256={**card.sha256, 'trunk.onnx': '0' * 64})))
    hashes.write_text(hashes.read_text().replace(
        old, hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(ModelBundleError, match='trunk.onnx'):
        load_bundle(tiny_bundle)


# --- random operators ----------------------------------------------------------------------------


def with_inner(op: str, holder: str) -> onnx.ModelProto:
    """Return the tiny head with a node inside a subgraph or function."""
    node = helper.make_node(op, ['features'], ['drawn'], domain='')
    out = helper.make_tensor_value_info('drawn', TensorProto.FLOAT, None)
    body = helper.make_graph([node], 'body', [], [out])
    head = tiny_head()
    if holder == 'function':
        head.functions.append(helper.make_function(
            'local', 'F', ['features'], ['drawn'], [node], [helper.make_opsetid('', 17)]))
        head.opset_import.append(helper.make_opsetid('local', 1))
    elif holder == 'nested':
        inner = helper.make_node('If', ['c'], ['drawn'], then_branch=body, else_branch=body)
        outer = helper.make_graph([inner], 'outer', [], [out])
        head.graph.node.append(helper.make_node('Loop', ['', 'c'], ['z'], body=outer))
    elif holder == 'in a function':
        inner = helper.make_node('If', ['c'], ['drawn'], then_branch=body, else_branch=body)
        head.functions.append(helper.make_function(
            'local', 'F', ['features', 'c'], ['drawn'], [inner], [helper.make_opsetid('', 17)]))
    elif holder == 'mislabelled':
        hidden = helper.make_node('If', ['c'], ['z'], then_branch=body, else_branch=body)
        for entry in hidden.attribute:
            entry.type = onnx.AttributeProto.INT
        head.graph.node.append(hidden)
    else:
        attributes = {'If': ('then_branch', 'else_branch'), 'Loop': ('body',), 'Scan': ('body',)}
        head.graph.node.append(helper.make_node(
            holder, ['', 'c'], ['z'], **dict.fromkeys(attributes[holder], body)))
    return head


@for_each('holder', ['If', 'Loop', 'Scan', 'nested', 'function', 'in a function', 'mislabelled'])
def test_a_random_operator_is_found_wherever_it_hides(tmp_path: Path, holder: str) -> None:
    for op in ('Dropout', 'RandomNormalLike'):
        folder = bundle_of(tmp_path / holder / op, with_inner(op, holder))
        with pytest.raises(ModelBundleError, match=op):
            load_bundle(folder)


@for_each('holder', ['Loop', 'Scan', 'nested'])
def test_a_loop_that_might_never_end_is_refused(tmp_path: Path, holder: str) -> None:
    with pytest.raises(ModelBundleError, match='Scan' if holder == 'Scan' else 'Loop'):
        load_bundle(bundle_of(tmp_path / holder, with_inner('Identity', holder)))


def test_a_dropout_of_another_domain_is_found(tmp_path: Path) -> None:
    head = tiny_head()
    head.graph.node.append(helper.make_node('BiasDropout', ['features'], ['z'],
                                            domain='com.microsoft'))
    with pytest.raises(ModelBundleError, match='BiasDropout'):
        load_bundle(bundle_of(tmp_path / 'b', head))


@for_each('where', ['graph', 'subgraph', 'function'])
def test_weights_outside_of_their_graph_are_refused(tmp_path: Path, where: str) -> None:
    head = tiny_head() if where == 'graph' else with_inner('Constant', {
        'subgraph': 'If', 'function': 'function'}[where])
    if where == 'graph':
        tensors = [head.graph.initializer[0]]
    else:
        holder = head.graph.node[-1].attribute[0].g if where == 'subgraph' else head.functions[0]
        inner = holder.node[0].attribute.add(name='value', type=onnx.AttributeProto.TENSOR)
        inner.t.CopyFrom(head.graph.initializer[0])
        tensors = [inner.t]
    tensors[0].ClearField('raw_data')
    tensors[0].data_location = TensorProto.EXTERNAL
    tensors[0].external_data.add(key='location', value='trunk.onnx')
    with pytest.raises(ModelBundleError, match='passes.onnx'):
        load_bundle(bundle_of(tmp_path / 'b', head))


def test_a_bundle_of_links_as_colcon_installs_it_loads(tmp_path: Path, tiny_bundle: Path) -> None:
    folder = tmp_path / 'links'
    folder.mkdir()
    for path in tiny_bundle.iterdir():
        (folder / path.name).symlink_to(path)
    assert load_bundle(folder).card.name == 'tiny'


def test_a_huge_card_is_refused_before_it_is_read(tiny_bundle: Path) -> None:
    (tiny_bundle / 'SHA256SUMS').unlink()
    with (tiny_bundle / 'card.json').open('r+b') as file:
        file.truncate(2**40)  # sparse: a terabyte without disk blocks
    with pytest.raises(ModelBundleError, match='1099511627776'):
        load_bundle(tiny_bundle)

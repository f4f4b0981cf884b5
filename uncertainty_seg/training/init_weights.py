# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Initial weights of a training: from a bundle, a file of weights, or those of an encoder.

A compiled bundle of the shipped architecture holds its convolutions with the batch norms folded
in. They are read back in the order in which they run, matched by shape, and the result is compared
with the bundle; if the logits differ, TrainingError is raised. The statistics of batch
norms are measured on images, so that the network computes the same function in training mode too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import numpy_helper
import torch
from torch import nn, Tensor

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.compiler.algebra.ensemble import MEMBERS
from uncertainty_seg.compiler.capture.export import read_state
from uncertainty_seg.compiler.head_graphs import logits_of
from uncertainty_seg.compiler.onnx_tools import drop_unused, refill
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import still_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError, TrainingError
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.training.batches import normalise
from uncertainty_seg.training.encoders import (
    CONVOLUTIONAL,
    encoder_kind,
    ENCODERS,
    new_encoder,
    pretrained_weights,
)
from uncertainty_seg.training.networks import PyramidNet
from uncertainty_seg.training.recipes import DEFAULT_ENCODER, NO_DROPOUT, TrainRecipe

_log = logging.getLogger(__name__)
# Smallest standard deviation by which a nearly constant channel is divided.
_LEAST_SPREAD = 1e-3
# Largest difference of logits due to 16-bit weights, as a share of their standard deviation.
_TOLERANCE = 0.02
# Number of images for measuring the statistics of the batch norms.
STATISTICS_IMAGES = 32
_FIX = 'start from the file of weights that train wrote beside the bundle'
_READABLE = ('mc_dropout', 'single', 'deep_ensemble')


@dataclass(frozen=True)
class Taken:
    """
    Initial weights, keyed by the names of the network.

    `encoder` is that of the shipped architecture, `class_names` are the classes of the
    classifier's rows; both are empty if unknown. With `has_folded_norms` the batch norms have no
    statistics yet; see `measure_norms`. `source` is a text for the card.
    """

    state: Mapping[str, Tensor]
    encoder: str = ''
    has_folded_norms: bool = False
    class_names: tuple[str, ...] = ()
    source: str = ''


def read_start(text: str, recipe: TrainRecipe) -> Taken | None:
    """
    Read the initial weights; None for those with which the network is built, such as random ones.

    `text` is a bundle, a file of weights, the file with the pretrained weights of the recipe's
    encoder or a folder that contains it, or 'none'. Raises ConfigError if nothing is given for the
    included architecture, or a bundle for the user's own network; UncertaintySegError if the
    source cannot be read.
    """
    path, encoder = Path(text), recipe.encoder or DEFAULT_ENCODER
    if not text and not recipe.net:
        raise ConfigError('nothing to start from', 'a bundle, a file of weights, pretrained '
                          'weights, or none for random ones', 'start from suim')
    if text in ('', 'none'):
        return None
    known = {kind.file: name for name, kind in ENCODERS.items()}
    if any((path / file).is_file() for file in known):
        return read_encoder(encoder, path / encoder_kind(encoder).file)
    if path.is_file():
        return read_encoder(known[path.name], path) if path.name in known else read_weights(path)
    if recipe.net:
        raise ConfigError(f'the start {text} for a network of your own', 'a file of its weights')
    return read_bundle(load_bundle(text, has_calibration=False))


def read_encoder(encoder: str, path: Path) -> Taken:
    """Read pretrained weights of an encoder; raises TrainingError if it is another file."""
    state = {f'encoder.{name}': value for name, value in pretrained_weights(encoder, path).items()}
    title = 'ImageNet' if encoder in CONVOLUTIONAL else 'MobileSAM'
    return Taken(state, encoder, source=f'{title} weights of the encoder')


def read_weights(path: Path) -> Taken:
    """Read a file of weights; raises TrainingError as `export.read_state` does."""
    state = read_state(path)
    return Taken(state, _encoder_of(state), source=f'the weights {path.name}')


def _encoder_of(state: Mapping[str, Tensor]) -> str:
    """Return the encoder whose weights are all present with its shapes, or an empty string."""
    shapes = {name: value.shape for name, value in state.items()}
    if 'encoder.0.conv1.conv.weight' in shapes:
        return 'tinyvit'
    return next((encoder for encoder in CONVOLUTIONAL if {
        f'encoder.{name}': value.shape for name, value in new_encoder(encoder).state_dict().items()
    }.items() <= shapes.items()), '')


def read_bundle(bundle: ModelBundle) -> Taken:
    """
    Read back the weights of a bundle of the shipped architecture; for an ensemble, of member 0.

    Raises TrainingError if the bundle has another network or method, or the weights do not
    reproduce its logits.
    """
    card = bundle.card
    if card.method not in _READABLE:
        raise TrainingError(f'{card.name!r} is a bundle of the method {card.method}',
                            f'one of {", ".join(_READABLE)}', _FIX)
    if card.precision != 'fp32':
        raise TrainingError(f'the weights of {card.name!r} are converted to {card.precision}',
                            'the bundle that it was converted from', _FIX)
    layers = [*_layers(_first_member(onnx.load(str(bundle.trunk_path)))),
              *_layers(logits_of(onnx.load(str(bundle.passes_path))))]
    for encoder in CONVOLUTIONAL:
        net = PyramidNet(card.num_classes, NO_DROPOUT, encoder).eval()
        if _fill(net, layers):
            _require_same_logits(net, bundle)
            return Taken(net.state_dict(), encoder, True, card.class_names,
                         f'the first member of the bundle {card.name}' if card.members
                         else f'the bundle {card.name}')
    raise TrainingError(f'the weights of {card.name!r} cannot be read back ({len(layers)} layers)',
                        f'a PyramidNet with one of {", ".join(CONVOLUTIONAL)}', _FIX)


def load_what_fits(net: nn.Module, taken: Taken, class_names: Sequence[str]) -> tuple[int, int]:
    """
    Load the weights that match in name and shape; return their number and the network's total.

    If class names are known, the classifier's rows are assigned to the classes of the same name.
    Raises TrainingError if no weight matches.
    """
    wanted, fitting = net.state_dict(), {}
    for name, value in wanted.items():
        given = taken.state.get(name)
        if given is None:
            continue
        if taken.class_names and name.startswith('decoder.classifier.'):
            given = _by_class(value, given, taken.class_names, class_names)
        if given.shape == value.shape:
            fitting[name] = given
    if not fitting:
        raise TrainingError(f'of {len(taken.state)} weights of {taken.source} none has a name and '
                            f'shape of the network, which has {len(wanted)}',
                            'weights of this network, or of one that is mostly the same')
    net.load_state_dict({**wanted, **fitting})
    kept = [name for name in class_names if name in taken.class_names]
    rows = f'; of {len(class_names)} classes {", ".join(kept) or "none"} have rows in it' \
        if taken.class_names else ''
    _log.info('started from %s: %d of %d weights%s', taken.source, len(fitting), len(wanted), rows)
    return len(fitting), len(wanted)


@torch.no_grad()
def measure_norms(net: nn.Module, images: Sequence[NDArray[np.uint8]], size: tuple[int, int]
                  ) -> None:
    """
    Set the statistics of batch norms to those of RGB images, without changing their function.

    The norms are changed in place. The first `STATISTICS_IMAGES` images, of any size, are used,
    resized to `size` (width, height).
    """
    import cv2

    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    found: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double()
        sums, squares, count = found.get(norm, (0.0, 0.0, 0))
        found[norm] = (sums + values.sum((0, 2, 3)), squares + values.square().sum((0, 2, 3)),
                       count + values.numel() // values.shape[1])

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    was_training = net.training
    net.eval()
    for image in images[:STATISTICS_IMAGES]:
        net(normalise(cv2.resize(image, size)[None]))
    net.train(was_training)
    for handle in handles:
        handle.remove()
    for norm in norms:
        sums, squares, count = found[norm]
        mean = sums / count
        variance = (squares / count - mean.square()).clamp(min=_LEAST_SPREAD ** 2)
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.add_((gain * (mean - norm.running_mean)).to(norm.bias.dtype))
        norm.weight.copy_(gain * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


@dataclass(frozen=True)
class _Layer:
    """A convolution of a graph: weights, bias, and (stride, dilation, groups)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    laid: tuple[int, int, int]


def _first_member(trunk: onnx.ModelProto) -> onnx.ModelProto:
    """Reduce the trunk of an ensemble to the computation of the first member."""
    joined = [node for node in trunk.graph.node if MEMBERS in node.output]
    if joined:
        refill(trunk.graph.output, [onnx.ValueInfoProto(name=joined[0].input[0])])
        drop_unused(trunk.graph)
    return trunk


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    known = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ('Cast', 'Identity') and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]].astype(np.float32)
        elif node.op_type == 'Constant' and node.attribute[0].name == 'value':
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == 'Conv' and node.input[1] in known:
            laid = {entry.name: list(entry.ints) or [entry.i] for entry in node.attribute}
            bias = known.get(node.input[2]) if len(node.input) > 2 else None
            yield _Layer(known[node.input[1]].astype(np.float32), bias, (
                laid.get('strides', [1])[0], laid.get('dilations', [1])[0],
                laid.get('group', [1])[0]))
    # The last convolution, if it was folded into a product with the masks.
    if 'logits_weights' in known and 'logits_bias' in known:
        last = known['logits_weights'][0].astype(np.float32)
        weights = last.reshape(len(last), -1, 1, 1)
        yield _Layer(weights, known['logits_bias'].reshape(-1), (1, 1, 1))


def _fill(net: PyramidNet, layers: Sequence[_Layer]) -> bool:
    """Fill a network if all layers match its convolutions in order; return whether they do."""
    run = _order(net)
    if len(run) != len(layers):
        return False
    for (conv, _), layer in zip(run, layers, strict=True):
        if conv.weight.shape != layer.weight.shape or \
                (conv.stride[0], conv.dilation[0], conv.groups) != layer.laid:
            return False
    with torch.no_grad():
        for (conv, norm), layer in zip(run, layers, strict=True):
            # Adding 0 turns -0, from rounding to 16 bits, into 0. Averaging does the same to the
            # frozen layers of other members, and shared layers are found by equal bits.
            conv.weight.copy_(torch.from_numpy(layer.weight + np.float32(0)))
            bias = torch.zeros(len(layer.weight)) if layer.bias is None else \
                torch.from_numpy(np.array(layer.bias, np.float32))
            if norm is None:
                assert conv.bias is not None
                conv.bias.copy_(bias)
                continue
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            norm.weight.fill_(1)
            norm.bias.copy_(bias)
    return True


def _order(net: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Return the convolutions in the order they run, each with the norm that follows it."""
    run: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []

    def note(layer: nn.Module, *_: object) -> None:
        if isinstance(layer, nn.Conv2d):
            run.append((layer, None))
        elif isinstance(layer, nn.BatchNorm2d):
            run[-1] = run[-1][0], layer

    handles = [part.register_forward_hook(note) for part in net.modules()
               if isinstance(part, (nn.Conv2d, nn.BatchNorm2d))]
    with torch.no_grad():
        net(torch.zeros(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    return run


def _by_class(
    fresh: Tensor, given: Tensor, have: Sequence[str], want: Sequence[str]
) -> Tensor:
    rows = fresh.clone()
    for place, name in enumerate(want):
        if name in have and given.shape[1:] == fresh.shape[1:]:
            rows[place] = given[list(have).index(name)]
    return rows


def _require_same_logits(net: nn.Module, bundle: ModelBundle) -> None:
    card, rng = bundle.card, np.random.default_rng(0)
    # A smooth image, similar to a camera's.
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32))
    image = nn.functional.interpolate(coarse, (card.input.height, card.input.width),
                                      mode='bicubic')
    pixels = image.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    with closing(open_backend('onnxruntime', bundle, Settings(threads=1))) as backend:
        logits = backend.run(pixels[0], still_inputs(card, 1), 1.0).logits
    with torch.no_grad():
        ours = net(normalise(pixels))[0].numpy()
    apart = float(np.abs(ours - logits).max()) if ours.shape == logits.shape else np.inf
    if not apart <= _TOLERANCE * max(float(logits.std()), 1e-6):
        raise TrainingError(f'the weights read out of {card.name!r} give other logits than it, '
                            f'by up to {apart:.3g}', 'the same network', _FIX)

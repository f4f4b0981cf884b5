# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What networks in memory say of images: uncertainty maps, predicted classes, features.

What the passes of dropout share is computed once, as in a bundle, where the network is the shipped
architecture. The passes of several networks are those of an ensemble.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.uncertainty import (
    LEAST_PROBABILITY,
    MapRequest,
    maps_from_sums,
    NO_MORE,
    UncertaintyMaps,
)
from uncertainty_seg.training.active.prepared import PreparedImages
from uncertainty_seg.training.active.rounds import droppers
from uncertainty_seg.training.fit.augmentation import normalise
from uncertainty_seg.training.fit.loop import logits_of
from uncertainty_seg.training.networks import PyramidNet
from uncertainty_seg.training.run_facts import find_classifier

# Images at once.
BATCH = 16
Sums = dict[str, Tensor]


class PassRunner:
    """
    Runs one network: once what its passes share, T times the rest.

    Parameters
    ----------
    net : Module
        In eval mode; whatever drops out is switched on.
    passes : int
        T; 1 if nothing drops out. 0 for one pass with dropout switched off.

    """

    def __init__(self, net: nn.Module, passes: int) -> None:
        net.eval()
        dropping = droppers(net) if passes else []
        for part in dropping:
            part.train()
        self.passes = passes if dropping else 1
        self._shared, self._rest = _split(net)

    def logits(self, images: Tensor) -> Iterator[Tensor]:
        """Yield logits, shape (N, C, hl, wl), pass by pass."""
        shared = self._shared(images)
        for _ in range(self.passes):
            yield self._rest(shared).float()


def _split(net: nn.Module) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Return what of a network comes before any dropout, and the rest."""
    if not isinstance(net, PyramidNet):
        return lambda images: images, lambda images: logits_of(net(images))
    decoder, on = net.decoder, {id(part) for part in droppers(net)}
    if on <= {id(decoder.drop_head)}:
        def shared(images: Tensor) -> Tensor:
            return decoder.final(decoder.merged(net.features(images)))

        return shared, lambda features: decoder.classifier(decoder.drop_head(features))
    if not on & {id(net.drop_deep16), id(net.drop_deep32)}:
        return net.features, decoder
    return lambda images: images, net


def _sums(runners: Sequence[PassRunner], images: Tensor) -> tuple[Sums, int]:
    """Add up all passes of some images: what `maps_from_sums` takes, with N in front."""
    sums: Sums = {}
    passes = 0
    for runner in runners:
        for logits in runner.logits(images):
            passes += 1
            for name, value in _of_pass(logits).items():
                sums[name] = sums[name] + value if name in sums else value
    return sums, passes


def _of_pass(logits: Tensor) -> Sums:
    logs = F.log_softmax(logits, 1)
    p = logs.exp()
    votes = F.one_hot(p.argmax(1), p.shape[1]).permute(0, 3, 1, 2)
    return {'sum_p': p, 'votes': votes.float(), 'sum_entropy': -(p * logs).sum(1),
            'sum_p2': (p * p).sum(1), 'sum_logits': logits}


@dataclass(frozen=True)
class Jury:
    """
    Networks that judge images together.

    Attributes
    ----------
    nets : tuple of Module
        One, or the members of an ensemble.
    spec : InputSpec
        Their input.
    passes : int
        Of dropout of each; 0 for one without dropout.
    seed : int
        Of the dropout.

    """

    nets: tuple[nn.Module, ...]
    spec: InputSpec
    passes: int
    seed: int

    def _batches(self, data: PreparedImages) -> Iterator[tuple[int, Sums, int]]:
        """Yield the number of the first image, and the sums of the passes of some."""
        runners = [PassRunner(net, self.passes) for net in self.nets]
        torch.manual_seed(self.seed)
        for start in range(0, len(data), BATCH):
            with torch.no_grad():
                sums, passes = _sums(runners, normalise(data.images[start:start + BATCH]))
            yield start, sums, passes

    def maps(
        self, data: PreparedImages, request: MapRequest = NO_MORE
    ) -> Iterator[UncertaintyMaps]:
        """Yield the maps of each image, at the network's size and without the grey around it."""
        plane = (self.spec.height, self.spec.width)
        for start, sums, passes in self._batches(data):
            arrays = {name: value.numpy() for name, value in sums.items()}
            for row in range(len(arrays['sum_p'])):
                one = {name: value[row] for name, value in arrays.items()}
                yield maps_from_sums(one, passes, plane, request=request).cut(
                    *data.box(start + row))

    def predictions(
        self, data: PreparedImages
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Yield classes and their probabilities, each of the size of the image's truth."""
        plane = (self.spec.height, self.spec.width)
        for start, sums, passes in self._batches(data):
            logs = (sums['sum_p'] / passes).clamp(min=LEAST_PROBABILITY).log()
            logs = F.interpolate(logs, plane, mode='bilinear', align_corners=False)
            for row in range(len(logs)):
                rows, columns = data.box(start + row)
                size = data.truths[start + row].shape
                full = F.interpolate(logs[row:row + 1, :, rows, columns], size, mode='bilinear',
                                     align_corners=False).softmax(1)[0]
                confidence, label = full.max(0)
                yield label.byte().numpy(), confidence.numpy()

    def features(self, data: PreparedImages) -> NDArray[np.float32]:
        """Return what the first net's classifier takes, without dropout, as means (N, D)."""
        net = self.nets[0].eval()
        layer = net.get_submodule(name) if (
            name := find_classifier(net, data.num_classes, self.spec)) else None
        found: list[Tensor] = []

        def look(_part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.append(inputs[0].mean((2, 3)))

        handle = layer.register_forward_pre_hook(look) if layer is not None else None
        with torch.no_grad():
            for start in range(0, len(data), BATCH):
                logits = logits_of(net(normalise(data.images[start:start + BATCH])))
                if handle is None:
                    found.append(logits.mean((2, 3)))
        if handle is not None:
            handle.remove()
        return np.concatenate([rows.numpy() for rows in found]).astype(np.float32)

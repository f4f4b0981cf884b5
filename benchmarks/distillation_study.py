# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Whether one network learns from the mean of an ensemble what labels alone do not teach it.

Trains the network of the recipe ``suim`` on the images outside of a fold, as long as each member
was, and with their draws and augmentation. Half of its loss is that of the labels, half the
cross-entropy to the mean of what the members say of the same augmented images. The members must
have been trained outside of the same fold, or the student would learn of images that measure it:

    uncertainty_seg train suim --method deep_ensemble --kind nets --members M --folds K --fold F \
        --data DATA --split all --size WxH --epochs N --imagenet DIR --weights NETS/fold-F.pt
    python benchmarks/distillation_study.py NETS OUT --data DATA --folds K --fold F --size WxH \
        --epochs N --imagenet DIR
    uncertainty_seg compare SINGLE OUT DATA --folds 5 ...

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.storage import folds, labelled_folder
from uncertainty_seg.training.fit import loop
from uncertainty_seg.training.losses import segmentation_loss
from uncertainty_seg.training.members import member_file
from uncertainty_seg.training.networks import NO_DROPOUT, PyramidNet
from uncertainty_seg.training.recipes import (
    as_single,
    load_net,
    make_bundle,
    recipe,
    train_weights,
    with_epochs,
    with_size,
)

OF_TEACHER = 0.5


class Teacher:
    """The members of an ensemble, which see the images that the student sees."""

    def __init__(self, nets: Sequence[nn.Module], weights: Tensor) -> None:
        self._nets, self._weights = nets, weights
        self._images: Tensor | None = None

    def look(self, student: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Keep the images of the step; a hook before the student's forward."""
        if student.training:
            self._images = given[0]

    @torch.no_grad()
    def targets(self, size: tuple[int, int]) -> Tensor:
        """Return (N, C, h, w), what a network that is trained with the class weights would say."""
        mean = torch.stack([self._probabilities(net, size) for net in self._nets]).mean(0)
        weighted = mean * self._weights[:, None, None]
        return weighted / weighted.sum(1, keepdim=True)

    def _probabilities(self, net: nn.Module, size: tuple[int, int]) -> Tensor:
        logits = F.interpolate(loop.logits_of(net(self._images)), size=size, mode='bilinear',
                               align_corners=False)
        return logits.softmax(1)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor, ignore_index: int) -> Tensor:
        """Return the loss that the fit makes small, in the place of that of the labels alone."""
        size = (labels.shape[1], labels.shape[2])
        soft = -(self.targets(size) * logits.log_softmax(1)).sum(1)
        # Pixels outside of the image are ignored in the labels; the teacher has no view of them.
        taught = soft[labels != ignore_index].mean()
        of_labels = segmentation_loss(logits, labels, weights, ignore_index)
        return OF_TEACHER * taught + (1 - OF_TEACHER) * of_labels


def main() -> None:
    """Train one student and compile it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('nets', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--folds', type=int, required=True)
    parser.add_argument('--fold', type=int, required=True)
    parser.add_argument('--members', type=int, default=4)
    parser.add_argument('--size', default='320x256')
    parser.add_argument('--epochs', type=int, default=36)
    parser.add_argument('--imagenet', type=Path, required=True)
    run(parser.parse_args())


def run(args: Any) -> None:
    """Do what the command line says."""
    plan = with_epochs(with_size(as_single(recipe('suim')), *map(int, args.size.split('x'))),
                       args.epochs)
    whole = labelled_folder.load_folders([args.data], ['train', 'val'])
    fold_by_stem = folds.fold_of(whole.stems, args.folds)
    data = folds.without_fold(whole, args.fold, fold_by_stem)
    first = args.nets / f'fold-{args.fold}.pt'
    nets = [load_net(member_file(first, m), data.num_classes, NO_DROPOUT, plan.encoder)
            for m in range(args.members)]
    teacher = Teacher(nets, loop.class_weights(data, plan.fit.class_power))
    args.out.mkdir(parents=True, exist_ok=True)
    folds.write_folds(args.out / folds.FOLDS_FILE, fold_by_stem)
    weights = args.out / f'fold-{args.fold}.pt'
    nn.modules.module.register_module_forward_pre_hook(
        lambda net, given: teacher.look(net, given) if isinstance(net, PyramidNet) else None)
    with mock.patch.object(loop, 'segmentation_loss', teacher.loss):
        train_weights(plan, data, args.imagenet, weights, threads=1)
    make_bundle(plan, whole, weights, args.out / f'fold-{args.fold}')


if __name__ == '__main__':
    main()

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which features tell photographs of another kind apart, by layer of the encoder and by score.

A network that was trained without one fold of the photographs describes that fold and foreign
photographs; the photographs that it was trained on are the bank. Layer, score and number of
neighbours are chosen on one half of both, and reported on the other.

    python benchmarks/feature_study.py WEIGHTS.pt SUIM_DIR OOD_DIR [--encoder lite1] [--count 150]

"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
import torch.nn.functional as F

from uncertainty_seg.calibration.feature_fit import fit_feature_density
from uncertainty_seg.calibration.statistics.metrics import auroc
from uncertainty_seg.compiler.algebra.feature_output import mixing
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import MOST_FEATURES
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.scores.density import dominant, pooled
from uncertainty_seg.core.uncertainty import cells
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder
from uncertainty_seg.training.encoders import encoder_kind
from uncertainty_seg.training.fit.augmentation import normalise
from uncertainty_seg.training.networks import DropoutPlan, PyramidNet
from uncertainty_seg.training.recipes import load_net, recipe

FOLDS, HELD_OUT = 3, 0
NEIGHBOURS = (1, 5, 20)
BOOTSTRAPS = 1000
# Of every layer: features (1, D, hf, wf) and predicted classes (h, w) of each photograph.
Described = dict[str, list[tuple[NDArray[np.float32], NDArray[np.uint8], None]]]


def fold_of(stems: Sequence[str]) -> dict[str, int]:
    """Return the fold of each photograph: its rank by the digest of its name, modulo `FOLDS`."""
    ranked = sorted(stems, key=lambda stem: hashlib.sha256(f'0:{stem}'.encode()).digest())
    return {stem: rank % FOLDS for rank, stem in enumerate(ranked)}


def describe(net: PyramidNet, layers: Sequence[int], images: Iterable[ImageU8]) -> Described:
    """Run BGR images through a network, and keep what some layers of the encoder give."""
    found: Described = {f'encoder.{layer}': [] for layer in layers}
    spec = recipe('suim').input
    for image in images:
        geometry = Geometry.of(image.shape[0], image.shape[1], spec)
        fitted = fit_image(image, geometry, spec)
        with torch.no_grad():
            features, kept = normalise(fitted[None]), {}
            for index, layer in enumerate(net.encoder):
                features = layer(features)
                kept[index] = features
            logits = net.decoder([kept[tap] for tap in encoder_kind(net_encoder(net)).taps])
        logits = F.interpolate(logits, scale_factor=4.0, mode='bilinear')[0]
        label = logits.argmax(0).numpy()[geometry.rows, geometry.columns].astype(np.uint8)
        for layer in layers:
            found[f'encoder.{layer}'].append((narrowed(kept[layer], geometry), label, None))
    return found


def net_encoder(net: PyramidNet) -> str:
    """Return the name of a network's encoder, by its number of layers."""
    return {18: 'mobilenet_v2', 17: 'lite0', 22: 'lite1'}[len(net.encoder)]


def narrowed(features: torch.Tensor, geometry: Geometry) -> NDArray[np.float32]:
    """Mix more channels than a bundle takes, as the compiler does, and leave out the padding."""
    if features.shape[1] > MOST_FEATURES:
        features = F.conv2d(
            features, torch.from_numpy(mixing(features.shape[1])))
    spec, (rows, columns) = recipe('suim').input, features.shape[2:]
    return features[..., cells(geometry.rows, spec.height, rows),
                    cells(geometry.columns, spec.width, columns)].numpy().copy()


def scores_of(known: Described, asked: Described, num_classes: int) -> dict[str, NDArray[
        np.float64]]:
    """Return each score (n,) of photographs against those of the bank, by layer and k."""
    found = {}
    for layer, frames in known.items():
        for neighbours in NEIGHBOURS:
            density = fit_feature_density(frames, neighbours)
            rows = [density.scores(pooled(f), dominant(label)) for f, label, _ in asked[layer]]
            found[f'{layer} knn k={neighbours}'] = np.array([r['features.knn'] for r in rows])
        found[f'{layer} gaussian'] = np.array([r['features.gaussian'] for r in rows])
    return found


def interval(foreign: NDArray[np.float64], own: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC over draws of the photographs."""
    rng = np.random.default_rng(0)
    drawn = [auroc(rng.choice(foreign, len(foreign)), rng.choice(own, len(own)))
             for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def both(data: Path) -> LabelledFolder:
    """Return the photographs for training and validation together."""
    train, val = load_folder(data, 'train'), load_folder(data, 'val')
    return dataclasses.replace(train, images=train.images + val.images,
                               masks=train.masks + val.masks, stems=train.stems + val.stems)


def main() -> None:
    """Print AUROC of every layer and score, on the half that chooses and on the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('weights', type=Path)
    parser.add_argument('data', type=Path)
    parser.add_argument('ood', type=Path)
    parser.add_argument('--encoder', default='lite1')
    parser.add_argument('--layers', type=int, nargs='+', default=(4, 7, 11, 13, 15, 18, 20, 21))
    parser.add_argument('--count', type=int, default=150)
    parser.add_argument('--frozen', type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = both(args.data)
    net = load_net(args.weights, data.num_classes, DropoutPlan(), args.encoder)
    folds = fold_of(data.stems)
    images = {stem: cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
              for stem, image in zip(data.stems, data.images, strict=True)}
    trained = [stem for stem in data.stems if folds[stem] != HELD_OUT]
    held = [stem for stem in data.stems if folds[stem] == HELD_OUT][:args.count]
    foreign = [cv2.imread(str(path)) for path in sorted(args.ood.iterdir())]
    known, own, other = (describe(net, args.layers, group) for group in (
        (images[stem] for stem in trained), (images[stem] for stem in held), foreign))
    own_scores = scores_of(known, own, data.num_classes)
    other_scores = scores_of(known, other, data.num_classes)
    print(f'{len(trained)} in the bank, {len(held)} held out, {len(foreign)} foreign')
    rows = [(auroc(other_scores[name][::2], own_scores[name][::2]),
             auroc(other_scores[name][1::2], own_scores[name][1::2]), name)
            for name in own_scores]
    for chosen_on, reported, name in sorted(rows, reverse=True):
        low, high = interval(other_scores[name][1::2], own_scores[name][1::2])
        print(f'{name:36s} {chosen_on:.3f}  {reported:.3f} [{low:.3f}, {high:.3f}]')


if __name__ == '__main__':
    main()

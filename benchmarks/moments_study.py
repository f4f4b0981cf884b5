# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How near error propagation is to sampling, and what it costs against one deterministic pass.

For each network and photograph: the rank correlation over pixels of the logits' variance, summed
over the classes, and of the mutual information, with those of T samples of the same network; the
total variance as a share of that of the samples. Cost is the time of trunk and head with 20
samples against the network without dropout, in pairs, ONNX Runtime on one thread.

The shipped architecture takes a state dict of `training.fit.loop`. The two other networks, a plain
one of VGG's kind with ReLU and dropout in its middle as Bayesian SegNet has it, and one of
inverted blocks with HardSwish and SiLU, are trained here for a few hundred steps at a quarter of
the size.

    python benchmarks/moments_study.py DATA --weights W.pt [--frames 12] [--samples 200]
        [--steps 200] [--nets head,decoder,everywhere,vgg,swish]

Prints a line a photograph, a table, and one JSON line last.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import dataclasses
import json
from pathlib import Path
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import onnxruntime
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from tqdm import tqdm

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks, without_dropout
from uncertainty_seg.compiler.algebra.free_passes import free_passes
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.capture.export import export_marked
from uncertainty_seg.compiler.checks.sample_checks import rank_correlation
from uncertainty_seg.compiler.compile import compile_moments, prepare
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.uncertainty import maps_from_coarse_logits
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder
from uncertainty_seg.training.networks import PyramidNet
from uncertainty_seg.training.recipes import DropoutPlan

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLANS = {'head': DropoutPlan(head=0.5), 'decoder': DropoutPlan(0.1, 0.1, 0.1, 0.1, 0.0),
         'everywhere': DropoutPlan(0.1, 0.1, 0.1, 0.1, 0.5)}
PASSES, CHUNK, ROUNDS = 20, 10, 9


def block(channels_in: int, channels_out: int, act: nn.Module, kernel: int = 3,
          groups: int = 1) -> list[nn.Module]:
    """Make convolution, batch norm and activation."""
    return [nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups,
                      bias=False), nn.BatchNorm2d(channels_out), act]


def vgg(classes: int) -> nn.Module:
    """Return a plain encoder and decoder, dropout around its middle as in Bayesian SegNet."""
    def stage(a: int, b: int) -> list[nn.Module]:
        return [*block(a, b, nn.ReLU()), *block(b, b, nn.ReLU())]

    def up(a: int, b: int) -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), *block(a, b, nn.ReLU())]

    return nn.Sequential(
        *stage(3, 24), nn.MaxPool2d(2), *stage(24, 48), nn.MaxPool2d(2), *stage(48, 96),
        nn.MaxPool2d(2), nn.Dropout2d(0.3), *stage(96, 96), nn.Dropout2d(0.3), *up(96, 64),
        nn.Dropout2d(0.3), *up(64, 32), nn.Conv2d(32, classes, 1))


class Inverted(nn.Module):
    """Expand, filter each channel, project, and add what came in."""

    def __init__(self, channels: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        wide = 3 * channels
        self.body = nn.Sequential(
            *block(channels, wide, act(), 1), *block(wide, wide, act(), 3, wide),
            nn.Conv2d(wide, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of x."""
        return x + self.body(x)


def swish(classes: int) -> nn.Module:
    """Return inverted blocks of HardSwish and SiLU with dropout between them."""
    return nn.Sequential(
        *block(3, 24, nn.Hardswish()), nn.AvgPool2d(2), *block(24, 40, nn.SiLU()),
        nn.AvgPool2d(2), Inverted(40, nn.Hardswish), Inverted(40, nn.SiLU), nn.Dropout2d(0.2),
        Inverted(40, nn.Hardswish), nn.Dropout2d(0.2),
        nn.Upsample(scale_factor=2, mode='bilinear'), *block(40, 40, nn.SiLU()),
        nn.Dropout2d(0.3), nn.Conv2d(40, classes, 1))


def fitted(data: LabelledFolder, width: int, height: int) -> list[NDArray[np.uint8]]:
    """Return the photographs as the network takes them, uint8 (1, h, w, 3), RGB."""
    return [np.ascontiguousarray(cv2.resize(image, (width, height))[None])
            for image in data.images]


def train(net: nn.Module, folder: Path, steps: int, size: tuple[int, int]) -> nn.Module:
    """Train for some steps on random crops of the size of the network's image."""
    data = load_folder(folder, 'train')
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    net.train()
    for step in tqdm(range(steps), desc='train'):
        chosen = rng.integers(0, len(data.images), 8)
        images = np.concatenate([cv2.resize(data.images[i], size)[None] for i in chosen])
        masks = np.stack([cv2.resize(data.masks[i], size, interpolation=cv2.INTER_NEAREST)
                          for i in chosen])
        floats = (images / 255 - MEAN) / STD
        logits = net(torch.from_numpy(floats.transpose(0, 3, 1, 2).astype(np.float32)))
        logits = F.interpolate(logits, size[::-1], mode='bilinear')
        loss = F.cross_entropy(logits, torch.from_numpy(masks.astype(np.int64)),
                               ignore_index=data.ignore_index)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group['lr'] = 3e-3 * (1 - step / steps)
    return net


def session(model: Any) -> onnxruntime.InferenceSession:
    """Open a graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=['CPUExecutionProvider'])


def named(opened: onnxruntime.InferenceSession, feed: dict[str, Any]) -> dict[str, Any]:
    """Run a graph on those of some tensors that it takes; return its outputs by name."""
    wanted = {info.name for info in opened.get_inputs()}
    names = [info.name for info in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {k: v for k, v in feed.items() if k in wanted}),
                    strict=True))


def study(net: nn.Module, images: list[NDArray[np.uint8]], samples: int) -> dict[str, Any]:
    """Compare the moments of a network with its samples on every image."""
    height, width = images[0].shape[1:3]
    spec = InputSpec(width, height, 'stretch', 'rgb', MEAN, STD)
    model = export_marked(net.eval(), spec)
    made = compile_moments(model, spec, CompileOptions())
    plain = prepare(model, spec, CompileOptions()).model
    masked, sites = dropout_to_masks(plain)
    parts = split_trunk_head(free_passes(masked, sites), sites)
    trunk, head = (session(part) for part in parts)
    moments, drawing, still = (session(m) for m in (made.trunk, made.head,
                                                    without_dropout(plain)))
    masks, noise = make_masks(sites, samples, 0), make_masks(made.sites, samples, 0)
    rows = []
    for image in tqdm(images, desc='frames'):
        features = {'image': image, **named(trunk, {'image': image})}
        drawn = np.concatenate([named(head, {**features, **{
            k: v[t:t + CHUNK] for k, v in masks.items()}})['logits']
            for t in range(0, samples, CHUNK)])
        ours = named(moments, {'image': image})
        variance = ours['logit_variance'][0]
        # As a softmax sees them: less what all classes have in common.
        wanted = (drawn - drawn.mean(1, keepdims=True)).var(0, ddof=1)
        logits = named(drawing, {**ours, **noise})['logits']
        mutual = [maps_from_coarse_logits(z, *z.shape[2:]).mutual_information
                  for z in (logits, drawn)]
        rows.append({
            'variance_rank': rank_correlation(variance.sum(0), wanted.sum(0)),
            'mutual_information_rank': rank_correlation(*mutual),
            'total': float(variance.sum() / wanted.sum())})
    shorter = {k: v[:PASSES] for k, v in noise.items()}
    ratios, alone = [], []
    for turn in range(2 * ROUNDS):
        image = {'image': images[turn % len(images)]}
        started = time.perf_counter()
        named(still, image)
        middle = time.perf_counter()
        found = named(moments, image)
        trunk_done = time.perf_counter()
        named(drawing, {**found, **shorter})
        ended = time.perf_counter()
        ratios.append((ended - middle) / (middle - started))
        alone.append((trunk_done - middle) / (middle - started))
    return {'frames': rows, 'cost': float(np.median(ratios)),
            'cost_of_trunk': float(np.median(alone)), 'nodes': len(made.trunk.graph.node)}


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, help='labelled folder with splits.json')
    parser.add_argument('--weights', type=Path, help='state dict of PyramidNet, lite1')
    parser.add_argument('--nets', default='head,decoder,everywhere,vgg,swish')
    parser.add_argument('--frames', type=int, default=12)
    parser.add_argument('--samples', type=int, default=200)
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--size', type=int, nargs=2, default=(512, 384))
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = load_folder(args.data, 'val')
    step = max(1, len(data.images) // args.frames)
    data = dataclasses.replace(data, images=data.images[::step][:args.frames])
    classes, width, height = len(data.class_names), *args.size
    found = {}
    for name in args.nets.split(','):
        if name in PLANS:
            net: nn.Module = PyramidNet(classes, PLANS[name], 'lite1')
            net.load_state_dict(torch.load(args.weights, weights_only=True))
            images = fitted(data, width, height)
        else:
            small = width // 4, height // 4
            net = train({'vgg': vgg, 'swish': swish}[name](classes), args.data, args.steps, small)
            images = fitted(data, width // 2, height // 2)
        found[name] = study(net, images, args.samples)
        for row in found[name]['frames']:
            print(f'{name:<11}', ' '.join(f'{k} {v:6.3f}' for k, v in row.items()))
    print(f'{"net":<11}{"variance rank":>22}{"MI rank":>18}{"total":>14}{"cost":>7}{"trunk":>7}')
    for name, result in found.items():
        cells = [[row[k] for row in result['frames']] for k in result['frames'][0]]
        texts = [f'{np.median(c):6.3f} (least {min(c):.3f})' for c in cells[:2]]
        print(f'{name:<11}{texts[0]:>22}{texts[1]:>22}{np.median(cells[2]):>8.2f}'
              f'{result["cost"]:>7.2f}{result["cost_of_trunk"]:>7.2f}')
    print(json.dumps(found))


if __name__ == '__main__':
    main()

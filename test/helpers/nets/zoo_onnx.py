# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Networks that reach the compiler as ONNX files, from torch's exporters and from Keras.

Each function writes the file into a folder and returns it with a function that runs the network
in its own library: (1, 3, h, w) and whether dropout is on, to logits (C, h, w).
"""

from collections.abc import Callable
import contextlib
import io
import os
from pathlib import Path
from typing import Any
import warnings

import numpy as np

SIZE, CLASSES = (96, 64), 5
RATE = 0.3
_INJECTED = {'inject_dropout': RATE, 'at': 'head'}
Eager = Callable[[np.ndarray, bool], np.ndarray]
Export = Callable[[Path], tuple[Path, Eager]]


# --- torch ---------------------------------------------------------------------------------------


def from_torch(
    build: Callable[[], Any], dynamo: bool = False, opset: int = 17, is_half: bool = False,
    is_free: bool = False,
) -> Export:
    """Export with dropout kept: by PRESERVE in the older exporter, `dynamo` for the newer."""
    def export(folder: Path) -> tuple[Path, Eager]:
        import torch
        from torch import nn

        from zoo_eager import eager, lively

        net = lively(build, CLASSES, SIZE)
        run = eager(lively(build, CLASSES, SIZE).half().float() if is_half else
                    lively(build, CLASSES, SIZE), CLASSES)
        for module in net.modules():
            module.training = not isinstance(module, nn.modules.batchnorm._NormBase)
        image = torch.zeros(1, 3, *SIZE[::-1])
        net, image = (net.half(), image.half()) if is_half else (net, image)
        options: dict[str, Any] = {'opset_version': opset, 'dynamo': dynamo}
        if not dynamo:
            options |= {'training': torch.onnx.TrainingMode.PRESERVE,
                        'do_constant_folding': False}
        if is_free:
            options |= {'input_names': ['image'], 'dynamic_axes': {
                'image': {0: 'batch', 2: 'height', 3: 'width'}}}
        path = folder / 'net.onnx'
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            torch.onnx.export(net, (image,), str(path), **options)
        return path, run
    return export


def _unet() -> Any:
    from paper_nets import UNet
    from torch import nn

    # The older exporter supports no other kind of dropout.
    return UNet(CLASSES, 8, ('bottom', 'decoder'), 0.3, nn.Dropout)


def _deeplab() -> Any:
    from paper_nets import DeepLabLargeFov

    return DeepLabLargeFov(CLASSES)


def _tokens() -> Any:
    from odd_nets import Setr

    return Setr(CLASSES)


# --- Keras ---------------------------------------------------------------------------------------


def _keras_block(layers: Any, x: Any, filters: int, stride: int) -> Any:
    x = layers.Conv2D(filters, 3, strides=stride, padding='same', use_bias=False)(x)
    return layers.Activation('relu')(layers.BatchNormalization()(x))


def _keras_unet(layers: Any, image: Any, live: Callable[[Any], Any]) -> Any:
    low = _keras_block(layers, image, 12, 2)
    deep = _keras_block(layers, low, 24, 2)
    up = layers.UpSampling2D(2, interpolation='bilinear')(deep)
    x = _keras_block(layers, layers.Concatenate()([up, low]), 16, 1)
    return layers.UpSampling2D(2)(layers.Conv2D(CLASSES, 1)(live(x)))


def _keras_separable(layers: Any, image: Any, live: Callable[[Any], Any]) -> Any:
    x = _keras_block(layers, image, 16, 2)
    for stride in (2, 1):
        x = layers.SeparableConv2D(24, 3, strides=stride, padding='same', activation='relu')(x)
        x = layers.BatchNormalization()(x)
    return layers.Conv2DTranspose(CLASSES, 8, strides=4, padding='same')(live(x))


def keras(network: Callable[..., Any]) -> Export:
    """
    Export by Keras with the torch backend, without dropout; the compiler injects it.

    The reference has SpatialDropout2D where the compiler injects, before the last layer.
    """
    def export(folder: Path) -> tuple[Path, Eager]:
        os.environ['KERAS_BACKEND'] = 'torch'
        import keras as library
        import torch

        def model(is_live: bool) -> Any:
            image = library.Input((SIZE[1], SIZE[0], 3), name='image')
            return library.Model(image, network(
                library.layers, image, lambda x: library.layers.SpatialDropout2D(RATE)(
                    x, training=True) if is_live else x))

        library.utils.set_random_seed(0)
        live, still = model(True), model(False)
        rng = np.random.default_rng(0)
        live.set_weights([_alive(w, rng) for w in live.get_weights()])
        still.set_weights(live.get_weights())
        for model_ in (live, still):  # a model must run once before export
            model_(np.zeros((1, SIZE[1], SIZE[0], 3), np.float32))
        path = folder / 'keras.onnx'
        with contextlib.redirect_stdout(io.StringIO()):
            still.export(str(path), format='onnx', verbose=False)

        def run(image: np.ndarray, is_live: bool) -> np.ndarray:
            with torch.no_grad():
                z = (live if is_live else still)(image.transpose(0, 2, 3, 1))
            return z.detach().cpu().numpy()[0].transpose(2, 0, 1)

        return path, run
    return export


def _alive(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a weight; the last kernel is scaled up, norms get values other than 0 and 1."""
    if weight.ndim == 4 and CLASSES in weight.shape[2:]:
        return 6 * weight
    if weight.ndim != 1 or not np.isin(weight, (0, 1)).all() or len(weight) == CLASSES:
        return weight
    if weight.all():
        return rng.uniform(0.7, 1.4, weight.shape)
    return rng.normal(0, 0.2, weight.shape)


# Name -> export function, library, and options of the compiler.
EXPORTS: dict[str, tuple[Export, str, dict[str, Any]]] = {
    'U-Net, opset 17': (from_torch(_unet), 'torch ONNX', {}),
    'U-Net, opset 11': (from_torch(_unet, opset=11), 'torch ONNX', {}),
    'U-Net, dynamo': (from_torch(_unet, dynamo=True, opset=20), 'torch ONNX', {}),
    'U-Net, fp16': (from_torch(_unet, is_half=True), 'torch ONNX', {}),
    'DeepLab, free size': (from_torch(_deeplab, is_free=True), 'torch ONNX', {}),
    'DeepLab, fp16': (from_torch(_deeplab, is_half=True), 'torch ONNX', {}),
    'SETR': (from_torch(_tokens), 'torch ONNX', {}),
    'U-Net': (keras(_keras_unet), 'Keras', _INJECTED),
    'separable': (keras(_keras_separable), 'Keras', _INJECTED),
}

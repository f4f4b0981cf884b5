# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write what Keras's own ONNX export makes of two small networks.

``keras_segmenter.onnx``: NHWC, softmax inside, its dropout dropped by the export as Keras does.
``keras_live_dropout.onnx``: the same dropout called with ``training=True``.
``keras_segmenter.npz``: an image and Keras's own probabilities for it.

    pip install keras tensorflow-cpu tf2onnx && python make_keras_segmenter.py

"""

from pathlib import Path

import keras
from keras import layers
import numpy as np

HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH, CLASSES = 48, 64, 4


def segmenter() -> keras.Model:
    """Return an encoder and decoder with batch norms, a skip connection and SpatialDropout2D."""
    image = keras.Input((HEIGHT, WIDTH, 3), name='image')
    low = block(image, 12, 2)
    deep = block(block(low, 24, 2), 24, 1)
    deep = layers.SpatialDropout2D(0.3)(deep)
    up = layers.UpSampling2D(2, interpolation='bilinear')(deep)
    x = block(layers.Concatenate()([up, low]), 16, 1)
    x = layers.Conv2D(CLASSES, 1)(layers.UpSampling2D(2)(x))
    return keras.Model(image, layers.Softmax(name='probabilities')(x), name='segmenter')


def block(x: keras.KerasTensor, filters: int, stride: int) -> keras.KerasTensor:
    """Return a 3x3 convolution, BN, ReLU."""
    x = layers.Conv2D(filters, 3, strides=stride, padding='same', use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def enliven(model: keras.Model) -> None:
    """Give the batch norms statistics that differ from channel to channel."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            n = len(layer.get_weights()[0])
            layer.set_weights([rng.uniform(1.5, 2.5, n), rng.normal(0, 0.3, n),
                               rng.normal(0, 0.1, n), rng.uniform(0.1, 0.4, n)])


def live_dropout() -> keras.Model:
    """Return a network whose dropout is on whatever the caller says."""
    image = keras.Input((HEIGHT, WIDTH, 3), name='image')
    x = layers.Conv2D(4, 3, padding='same')(image)
    x = layers.SpatialDropout2D(0.5)(x, training=True)
    return keras.Model(image, layers.Conv2D(CLASSES, 1)(x), name='live_dropout')


def main() -> None:
    """Write all three files."""
    keras.utils.set_random_seed(0)
    model = segmenter()
    enliven(model)
    image = np.random.default_rng(1).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    probabilities = model.predict(image / np.float32(255), verbose=0)
    np.savez_compressed(HERE / 'keras_segmenter.npz', image=image, probabilities=probabilities)
    model.export(HERE / 'keras_segmenter.onnx', format='onnx', verbose=False)
    live = live_dropout()
    live.predict(image / np.float32(255), verbose=0)  # Keras exports nothing that never ran
    live.export(HERE / 'keras_live_dropout.onnx', format='onnx', verbose=False)


if __name__ == '__main__':
    main()

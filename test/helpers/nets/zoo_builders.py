# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Builders of small networks with dropout from each segmentation library, without weights.

A builder takes the options of a network and returns a function without arguments that builds it.
Only that function imports the library, so that the list of networks needs none of them; nothing
is downloaded.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn, Tensor
from torch.nn import functional as F  # noqa: N812

CLASSES = 5
Build = Callable[[], nn.Module]


class Dropped(nn.Module):
    """A block followed by Dropout2d."""

    def __init__(self, block: nn.Module, p: float) -> None:
        super().__init__()
        self.block, self.drop = block, nn.Dropout2d(p)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.drop(self.block(*args, **kwargs))


class Chosen(nn.Module):
    """A network, and a function that computes logits from its output and the image."""

    def __init__(self, net: nn.Module, choose: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.choose = net, choose

    def forward(self, image: Tensor) -> Tensor:
        return self.choose(self.net(image), image)


class HeadedFeatures(nn.Module):
    """A backbone that returns tokens, dropout, and a linear head, as in linear probing."""

    def __init__(self, backbone: nn.Module, width: int, stride: int, extra: int, p: float) -> None:
        super().__init__()
        self.backbone, self.stride, self.extra = backbone, stride, extra
        self.drop, self.head = nn.Dropout(p), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.backbone(image)[0][:, self.extra:]
        logits = self.head(self.drop(tokens)).transpose(1, 2)
        height, width = (n // self.stride for n in image.shape[2:])
        return F.interpolate(logits.unflatten(2, (height, width)), image.shape[2:],
                             mode='bilinear')


def ours(module: str, name: str, *args: Any, **options: Any) -> Build:
    """Return the builder of a network class of the test helpers, with C classes."""
    return lambda: getattr(import_module(module), name)(CLASSES, *args, **options)


def smp(decoder: str, encoder: str, drop: str = 'own', **options: Any) -> Build:
    """
    Build a decoder and an encoder of segmentation-models-pytorch.

    `drop` is 'own' for the library's dropout, 'head' to add one before the last convolution,
    'decoder' to add one after each decoder block.
    """
    def build() -> nn.Module:
        import segmentation_models_pytorch as library

        net = getattr(library, decoder)(encoder, encoder_weights=None, classes=CLASSES, **options)
        if drop == 'head':
            net.segmentation_head[0] = nn.Sequential(nn.Dropout2d(0.3), net.segmentation_head[0])
        if drop == 'decoder':
            blocks = net.decoder.blocks
            items = blocks.items() if isinstance(blocks, nn.ModuleDict) else enumerate(blocks)
            for key, block in list(items):
                blocks[key] = Dropped(block, 0.3)
        return net
    return build


def torchvision(name: str, p: float = 0.0, **options: Any) -> Build:
    """Build a network of torchvision; p > 0 adds dropout before LR-ASPP's classifiers."""
    def build() -> nn.Module:
        import torchvision.models.segmentation as library

        net = getattr(library, name)(weights=None, weights_backbone=None, num_classes=CLASSES,
                                     **options)
        if p:
            head = net.classifier
            head.low_classifier = nn.Sequential(nn.Dropout2d(p), head.low_classifier)
            head.high_classifier = nn.Sequential(nn.Dropout2d(p), head.high_classifier)
        return net
    return build


def pytorchcv(name: str, **options: Any) -> Build:
    """Build a network of pytorchcv; its size is fixed as (height, width)."""
    def build() -> nn.Module:
        from pytorchcv.model_provider import get_model

        net = get_model(f'{name}_cityscapes', pretrained=False, num_classes=CLASSES, **options)
        has_dropout = any('Dropout' in type(m).__name__ and getattr(m, 'p', 1) for m in
                          net.modules())
        return net if has_dropout else _before_last(net, 0.3)
    return build


def _before_last(net: nn.Module, p: float) -> nn.Module:
    """Insert Dropout2d before the last convolution with C output channels."""
    name, layer = [(name, m) for name, m in net.named_modules() if isinstance(
        m, (nn.Conv2d, nn.ConvTranspose2d)) and m.out_channels == CLASSES][-1]
    parent = net.get_submodule(name.rpartition('.')[0])
    setattr(parent, name.rpartition('.')[2], nn.Sequential(nn.Dropout2d(p), layer))
    return net


# --- transformers --------------------------------------------------------------------------------

_SMALL = {'num_labels': CLASSES, 'initializer_range': 0.15}
_VIT = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4,
        'intermediate_size': 64, 'image_size': 64, 'patch_size': 8, 'hidden_dropout_prob': 0.1,
        'attention_probs_dropout_prob': 0.1}


def transformers(kind: str, **options: Any) -> Build:
    """Build a network of transformers from a small configuration; see `_KINDS`."""
    def build() -> nn.Module:
        import transformers as library

        return _KINDS[kind](library, **options)
    return build


def _segformer(t: Any, **options: Any) -> nn.Module:
    return t.SegformerForSemanticSegmentation(t.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 48], num_attention_heads=[1, 2, 4, 4],
        decoder_hidden_size=32, hidden_dropout_prob=0.05, attention_probs_dropout_prob=0.05,
        classifier_dropout_prob=0.1, drop_path_rate=0.2, **_SMALL, **options))


def _upernet(t: Any, backbone: str) -> nn.Module:
    backbones = {
        'convnext': lambda: t.ConvNextConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 48], drop_path_rate=0.2,
            layer_scale_init_value=0.5,
            out_features=['stage1', 'stage2', 'stage3', 'stage4']),
        'convnextv2': lambda: t.ConvNextV2Config(
            depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 48], drop_path_rate=0.2,
            out_features=['stage1', 'stage2', 'stage3', 'stage4']),
        'swin': lambda: t.SwinConfig(
            embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4,
            image_size=64, drop_path_rate=0.2, hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            out_features=['stage1', 'stage2', 'stage3', 'stage4']),
        'resnet': lambda: t.ResNetConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 48], embedding_size=16,
            layer_type='basic', out_features=['stage1', 'stage2', 'stage3', 'stage4']),
    }
    net = t.UperNetForSemanticSegmentation(t.UperNetConfig(
        backbone_config=backbones[backbone](), hidden_size=32, pool_scales=[1, 2],
        use_auxiliary_head=False, **_SMALL))
    if backbone == 'resnet':
        net.decode_head.classifier = nn.Sequential(nn.Dropout2d(0.3), net.decode_head.classifier)
    return net


def _beit(t: Any, data2vec: bool = False, **options: Any) -> nn.Module:
    config, net = (t.Data2VecVisionConfig, t.Data2VecVisionForSemanticSegmentation) if data2vec \
        else (t.BeitConfig, t.BeitForSemanticSegmentation)
    facts = {**_VIT, 'num_hidden_layers': 4, 'drop_path_rate': 0.2, 'out_indices': [1, 2, 3, 4],
             'pool_scales': [1, 2], 'use_relative_position_bias': True,
             'use_auxiliary_head': False, 'use_absolute_position_embeddings': True, **_SMALL,
             **options}
    return net(config(**facts))


def _dpt(t: Any, **options: Any) -> nn.Module:
    return t.DPTForSemanticSegmentation(t.DPTConfig(**{
        **_VIT, 'num_hidden_layers': 4, 'backbone_out_indices': [0, 1, 2, 3],
        'neck_hidden_sizes': [16, 16, 32, 32], 'fusion_hidden_size': 16, 'patch_size': 16,
        'semantic_classifier_dropout': 0.2, 'use_auxiliary_head': False, **_SMALL, **options}))


def _mobilenetv2(t: Any) -> nn.Module:
    return t.MobileNetV2ForSemanticSegmentation(t.MobileNetV2Config(
        depth_multiplier=0.25, image_size=64, semantic_classifier_dropout_prob=0.2, **_SMALL))


def _masks(out: Any, image: Tensor) -> Tensor:
    """Return the logarithm of MaskFormer's class scores."""
    classes = out.class_queries_logits.softmax(-1)[..., :-1]
    scores = torch.einsum('bqc,bqhw->bchw', classes, out.masks_queries_logits.sigmoid())
    return F.interpolate(scores.clamp(min=1e-6).log(), image.shape[2:], mode='bilinear')


def _swin_small(t: Any) -> Any:
    return t.SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4,
                        image_size=64, drop_path_rate=0.1,
                        out_features=['stage1', 'stage2', 'stage3', 'stage4'])


def _maskformer(t: Any) -> nn.Module:
    detr = t.DetrConfig(d_model=32, decoder_layers=2, encoder_layers=2, decoder_attention_heads=4,
                        encoder_attention_heads=4, decoder_ffn_dim=64, encoder_ffn_dim=64,
                        num_queries=8, dropout=0.1)
    return Chosen(t.MaskFormerForInstanceSegmentation(t.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=_swin_small(t),
        decoder_config=detr, num_labels=CLASSES)), _masks)


def _mask2former(t: Any) -> nn.Module:
    net = t.Mask2FormerForUniversalSegmentation(t.Mask2FormerConfig(
        backbone_config=_swin_small(t), feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=64, encoder_layers=2, decoder_layers=3, num_attention_heads=4,
        dim_feedforward=64, num_queries=8, dropout=0.1, num_labels=CLASSES))
    # In training mode layerdrop skips layers, and the library then fails on a mask's shape.
    net.model.transformer_module.decoder.layerdrop = 0.0
    return Chosen(net, _masks)


def _eomt(t: Any) -> nn.Module:
    return Chosen(t.EomtForUniversalSegmentation(t.EomtConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        image_size=64, patch_size=16, num_queries=6, num_blocks=1, hidden_dropout_prob=0.1,
        attention_dropout=0.1, drop_path_rate=0.1, num_labels=CLASSES, num_upscale_blocks=2,
        initializer_range=0.15)), _masks)


def _headed(t: Any, backbone: str) -> nn.Module:
    small = {**_VIT, 'initializer_range': 0.15}
    net, extra = {
        'ViT': lambda: (t.ViTModel(t.ViTConfig(**small), add_pooling_layer=False), 1),
        'DeiT': lambda: (t.DeiTModel(t.DeiTConfig(**small), add_pooling_layer=False), 2),
        'DINOv2': lambda: (t.Dinov2Model(t.Dinov2Config(**{
            **small, 'drop_path_rate': 0.2, 'mlp_ratio': 2})), 1),
        'DINOv3': lambda: (t.DINOv3ViTModel(t.DINOv3ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            image_size=64, patch_size=8, num_register_tokens=4, attention_dropout=0.1,
            drop_path_rate=0.2, initializer_range=0.15)), 5),
        'ViT-MSN': lambda: (t.ViTMSNModel(t.ViTMSNConfig(**small)), 1),
    }[backbone]()
    return HeadedFeatures(net, 32, 8, extra, 0.2)


_KINDS: dict[str, Callable[..., nn.Module]] = {
    'segformer': _segformer, 'upernet': _upernet, 'beit': _beit, 'dpt': _dpt,
    'mobilenetv2': _mobilenetv2, 'maskformer': _maskformer,
    'mask2former': _mask2former, 'eomt': _eomt, 'headed': _headed,
}

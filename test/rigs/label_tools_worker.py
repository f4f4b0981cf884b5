# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Read exports with the labelling tools' own code, in a process with these tools installed.

It does not import this package. Argument: the folder of the exports. It writes a .npz file of the
masks by stem (255 for uncovered pixels) and a .json file of the reasons there.
"""

from collections.abc import Callable
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np

# Result of a reader: masks by stem, reasons by stem.
Found = tuple[dict[str, Any], dict[str, str]]


def label_studio(folder: Path) -> Found:
    """Decode with the converter of Label Studio's SDK; write masks packed by the SDK, too."""
    from label_studio_sdk.converter import brush

    masks, reasons = {}, {}
    config = (folder / 'config.xml').read_text()
    names = parsed_labels(config)
    for task in json.loads((folder / 'tasks.json').read_text()):
        (prediction,) = task['predictions']
        stem, results = task['data']['frame'], prediction['result']
        for result in results:  # flattens `value`, as the SDK does before it calls the converter
            result.update(result['value'])
        layers = brush.decode_from_annotation('mask', results)
        size = results[0]['original_height'], results[0]['original_width']
        masks[stem] = np.full(size, 255, np.uint8)
        for name, layer in layers.items():
            label = name.removeprefix('mask-').rpartition('-')[0]
            masks[stem][layer > 127] = names.index(label)
        reasons[stem] = task['data']['reason']
    repack(folder, masks, brush)
    return masks, reasons


def parsed_labels(config: str) -> list[str]:
    """Return the class names that the SDK finds in a labelling config."""
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(config)
    control = interface.get_control('mask')
    assert control.tag == 'BrushLabels' and control.to_name == ['image']
    return list(control.labels)


def repack(folder: Path, masks: dict[str, Any], brush: Any) -> None:
    """Write class 1 of each mask as packed by the SDK, for this package's reader."""
    packed = {stem: brush.mask2rle(((mask == 1) * 255).astype(np.uint8))
              for stem, mask in masks.items()}
    (folder / 'packed_by_sdk.json').write_text(json.dumps(packed))


def round_trips(folder: Path) -> Found:
    """Convert with datumaro to other tools' formats and back, as in docs/guides/labels.md."""
    import datumaro

    for kind in ('cvat', 'voc_segmentation', 'label_me', 'polygons'):
        data = datumaro.Dataset.import_from(str(folder), 'coco')
        if kind == 'polygons':
            data.transform('masks_to_polygons')
        there = folder.parent / 'there' / kind
        form = kind if kind != 'polygons' else 'cvat'
        data.export(str(there), form, save_media=True)
        back = datumaro.Dataset.import_from(str(there), form)
        back.export(str(folder.parent / 'back' / kind), 'coco_instances', segmentation_mode='mask')
    return by_datumaro(folder)


def by_datumaro(folder: Path) -> Found:
    """Draw the masks that datumaro finds; its label ids follow the order in the file."""
    import datumaro

    masks = {}
    for item in datumaro.Dataset.import_from(str(folder), 'coco'):
        masks[item.id] = np.full(item.media.size, 255, np.uint8)
        for shape in item.annotations:
            if shape.type == datumaro.AnnotationType.mask:
                masks[item.id][np.asarray(shape.image).astype(bool)] = shape.label
    return masks, {}


READERS: dict[str, Callable[[Path], Found]] = {'label-studio': label_studio, 'coco': round_trips}
PACKAGES = {'label-studio': 'label_studio_sdk', 'coco': 'datumaro'}

if __name__ == '__main__':
    from importlib.util import find_spec

    for kind, read in READERS.items():
        if find_spec(PACKAGES[kind]) is not None:
            root = Path(sys.argv[1])
            found_masks, found_reasons = read(root / kind)
            np.savez(root / f'{kind}.npz', **found_masks)
            (root / f'{kind}.json').write_text(json.dumps(found_reasons))

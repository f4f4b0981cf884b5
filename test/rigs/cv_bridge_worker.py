# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare the real cv_bridge with the package's codec, in a Python that has cv_bridge.

Prints one JSON object with the result of each comparison, which `test_cv_bridge.py` checks.
"""

import array
from dataclasses import replace
import json
import sys
from typing import Any
import warnings

from image_oracle import answer
import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from uncertainty_seg.core.image_codec import decode, ENCODINGS, RawImage
from uncertainty_seg.ros.conversions import (
    BRIDGE_READS,
    image_bridge,
    image_from_msg,
)

SIZES = ((4, 4), (7, 10), (33, 46))
NATIVE = int(sys.byteorder == 'big')
RNG = np.random.default_rng(12)
HEADER = Header(frame_id='camera_optical')


def values_of(encoding: str, height: int, width: int) -> Any:
    kind = ENCODINGS[encoding]
    shape = (height, width, kind.channels)
    if kind.dtype == 'f4':
        return RNG.random(shape).astype(np.float32)
    return RNG.integers(0, np.iinfo(kind.dtype).max + 1, shape).astype(kind.dtype)


def message(encoding: str, height: int, width: int) -> Any:
    """Return a message of rows without padding, in this machine's byte order."""
    values = values_of(encoding, height, width)
    return Image(header=HEADER, height=height, width=width, encoding=encoding,
                 is_bigendian=NATIVE, step=ENCODINGS[encoding].row_bytes(width),
                 data=array.array('B', values.tobytes()))


def by_codec(read: RawImage) -> RawImage:
    return replace(read, values=None)


def as_bgr(bridge: Any, msg: Any) -> Any:
    """Return cv_bridge's own conversion to bgr8, or None if it has none."""
    from cv_bridge import CvBridgeError

    try:
        return bridge.imgmsg_to_cv2(msg, 'bgr8')
    except CvBridgeError:
        return None


def route() -> dict[str, Any]:
    """Return how the package uses this cv_bridge."""
    found = image_bridge()
    return {'name': found.name, 'is_fault': found.is_fault, 'sentence': found.sentence,
            'reads': sorted(found.reads)}


def reading() -> dict[str, Any]:
    """Compare images read with cv_bridge with the codec, the oracle and cv_bridge's bgr8."""
    bridge, found = image_bridge().bridge, {}
    for encoding in BRIDGE_READS:
        is_equal, is_shared, apart = True, True, -1
        for height, width in SIZES:
            msg = message(encoding, height, width)
            read = image_from_msg(msg)
            assert isinstance(read, RawImage)
            image = decode(read)
            is_equal &= bool((image == decode(by_codec(read))).all())
            right = answer(by_codec(read))
            assert right is not None
            right.check(image)
            is_shared &= read.values is not None and np.shares_memory(read.values, read.data)
            if (theirs := as_bgr(bridge, msg)) is not None:
                apart = max(apart, int(np.abs(image.astype(int) - theirs).max()))
        found[encoding] = {'through': is_shared, 'equal': is_equal, 'apart': apart}
    return found


def main() -> None:
    warnings.simplefilter('ignore')  # Debian's cv_bridge uses deprecated numpy functions
    print(json.dumps({'route': route(), 'reading': reading()}))


if __name__ == '__main__':
    main()

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Replay a bag without ROS: write what the node would publish, and print when the flag changes.

    python3 05_replay_a_bag.py [IN_BAG]

Without a bag a dive of 20 s is rendered. IN_BAG is a folder or file of rosbag2, or a rosbag1 file.
"""

import sys

import uncertainty_seg as us
from uncertainty_seg.storage.bags.reader import BagReader


def main(in_bag=None):
    """Replay the bag, or a rendered dive, and print the changes of the flag."""
    if in_bag is None:
        in_bag = 'dive'
        us.simulate_dive(in_bag, duration=20, rate=4, size=(320, 240))

    report = us.replay(in_bag, 'seen', settings=us.Settings(model='pipeline'), views=True)
    print(f'{report.num_confident} of {report.num_frames} frames are confident')

    before = ''
    with BagReader('seen') as bag:
        for item in bag.messages('/uncertainty_seg/status'):
            stamp, status = item.message.header.stamp, item.message.status[0]
            kind = next(pair.value for pair in status.values if pair.key == 'kind')
            if kind != before:
                print(f'{stamp.sec + stamp.nanosec / 1e9:8.2f} s  {kind}: {status.message}')
            before = kind


if __name__ == '__main__':  # the dive is rendered in child processes
    main(*sys.argv[1:])

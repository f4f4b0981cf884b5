# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Camera frames through the Fast DDS profile of this package, best effort, between processes.

No frame may be lost that its reader had time for: the sender is never further ahead of the newest
frame that was seen than the reader's queue is long.

"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    ROOT,
    values_of,
)

LINK = str(Path(__file__).resolve().parents[2] / 'rigs' / 'ros_image_link.py')
PROFILE = str(ROOT / 'config' / 'fastdds_profile.xml')
OUR_WAY = {'FASTRTPS_DEFAULT_PROFILES_FILE': PROFILE, 'FASTDDS_DEFAULT_PROFILES_FILE': PROFILE,
           'RMW_FASTRTPS_USE_QOS_FROM_XML': '0'}
NO_WAY = {'FASTRTPS_DEFAULT_PROFILES_FILE': '', 'FASTDDS_DEFAULT_PROFILES_FILE': ''}
PATIENCE_S = 20.0  # for one image, before it counts as lost
WINDOW = 3  # images under way at once; the reader's queue holds as many
FRAME_BYTES_4K = 3840 * 2160 * 3
SPACE = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
is_fast_dds = os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp').startswith('rmw_fastrtps')
only_fast_dds = pytest.mark.skipif(not is_fast_dds, reason='the profile is one of Fast DDS')


@contextmanager
def running(
    arguments: list[str], domain: int, log: Path, way: Mapping[str, str]
) -> Iterator[Process]:
    process = Process(arguments, domain, log, way)
    try:
        yield process
    finally:
        process.end()


def sent_and_seen(sender: Process) -> tuple[int, int]:
    sender.wait()
    told = json.loads(sender.output.splitlines()[-1])
    return told['sent'], told['seen']


def send_to_reader(
    num: int, folder: Path, way: Mapping[str, str], patience_s: float = PATIENCE_S
) -> tuple[int, int]:
    """Send images from one process to another; returns how many were sent and seen."""
    send = [LINK, 'send', str(num), str(WINDOW), str(patience_s), '/seen']
    with own_domain() as domain, \
            running([LINK, 'read', str(WINDOW)], domain, folder / 'reader', way), \
            running(send, domain, folder / 'sender', way) as sender:
        return sent_and_seen(sender)


def test_the_profile_holds_a_4k_frame_and_replaces_the_default_transports() -> None:
    root = ElementTree.parse(PROFILE).getroot()
    descriptors = list(root.iter(f'{SPACE}transport_descriptor'))
    kinds = {d.findtext(f'{SPACE}type'): d for d in descriptors}
    assert set(kinds) == {'SHM', 'UDPv4'}
    assert int(kinds['SHM'].findtext(f'{SPACE}segment_size') or 0) > FRAME_BYTES_4K
    assert int(kinds['UDPv4'].findtext(f'{SPACE}receiveBufferSize') or 0) >= 4 << 20
    (participant,) = root.iter(f'{SPACE}participant')
    assert participant.get('is_default_profile') == 'true'
    used = participant.find(f'{SPACE}rtps/{SPACE}userTransports')
    assert used is not None
    assert {e.text for e in used} == {d.findtext(f'{SPACE}transport_id') for d in descriptors}
    assert participant.findtext(f'{SPACE}rtps/{SPACE}useBuiltinTransports') == 'false'


class TestOverDds:
    pytestmark = [*needs_ros, only_fast_dds]

    @pytest.mark.release
    @pytest.mark.timeout(600)
    def test_all_frames_arrive(self, tmp_path: Path) -> None:
        assert send_to_reader(4000, tmp_path, OUR_WAY) == (4000, 4000)

    def test_without_it_frames_are_lost(self, tmp_path: Path) -> None:
        sent, seen = send_to_reader(40, tmp_path, NO_WAY, patience_s=0.1)
        assert seen < sent

    @pytest.mark.release
    def test_the_node_gives_a_verdict_on_every_frame(self, tmp_path: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        num = 60
        bundle = make_tiny_bundle(tmp_path / 'tiny')
        send = [LINK, 'send', str(num), '1', str(PATIENCE_S), '/uncertainty_seg/status']
        with own_domain() as domain, \
                running(node_arguments(bundle), domain, tmp_path / 'node', OUR_WAY) as node:
            client = Client(domain, node)
            client.node.destroy_publisher(client.camera)
            health: list[Any] = client.listen('/diagnostics', DiagnosticArray)
            try:
                with running(send, domain, tmp_path / 'sender', OUR_WAY) as sender:
                    assert sent_and_seen(sender) == (num, num)
                client.wait_until(lambda: health and int(
                    values_of(health[-1])['frames_processed']) >= num, 'the count of the frames')
            finally:
                client.close()

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile that the launch files set has room for a camera frame."""

from xml.etree import ElementTree

from ros_helpers import ROOT

PROFILE = str(ROOT / 'config' / 'fastdds_profile.xml')
FRAME_BYTES_4K = 3840 * 2160 * 3
SPACE = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'


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

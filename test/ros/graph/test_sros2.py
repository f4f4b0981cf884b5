# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The SROS2 policy: exactly what the nodes use, and what a DDS with security makes of it.

A DDS without security, such as the one in ROS's wheels, refuses to start with keys. Where ROS's
middleware has it (the distributions' packages), two nodes speak by their enclaves.

"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
import shutil
import time
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    node_arguments,
    own_domain,
    Process,
    SKIP_REASON,
    TIMEOUT_S,
)
from ros_speed_rig import GOVERNOR, governor_arguments, PEER
from ros_sros2 import dds_topics, enclaves, make_keystore, permissions, POLICY

FLAG, NUMBERS = '/uncertainty_seg/confident', '/uncertainty_seg/verdict'
# Where they are not: the first came with Jazzy, the second needs vision_msgs.
MAY_BE_ABSENT = {'get_type_description': 'type_description_interfaces',
                 'label_info': 'vision_msgs'}
needs_openssl = pytest.mark.skipif(shutil.which('openssl') is None, reason='openssl is not here')


# --- the policy ----------------------------------------------------------------------------------


def test_only_the_node_may_publish_the_flag_and_only_the_governor_the_commands() -> None:
    rights = enclaves()
    assert set(rights) == {'/uncertainty_seg', '/speed_governor', '/mission'}
    for topic, speakers in ((FLAG, {'/uncertainty_seg'}), (NUMBERS, {'/uncertainty_seg'}),
                            ('/cmd_vel_limited', {'/speed_governor'}),
                            ('/speed_governor/speed_factor', {'/speed_governor'})):
        assert {name for name, one in rights.items() if ('publish', topic) in one} == speakers
    # Nobody may change a parameter or the lifecycle of another node.
    assert not any(verb == 'request' for one in rights.values() for verb, _ in one)
    # The node listens to its own flag, to notice a second publisher of it.
    assert {('subscribe', FLAG), ('subscribe', NUMBERS)} <= rights['/uncertainty_seg']


def used_by(node: Any, name: str) -> set[tuple[str, str]]:
    """Return what a node has on the graph, as the rights it needs."""
    found = (('publish', node.get_publisher_names_and_types_by_node),
             ('subscribe', node.get_subscriber_names_and_types_by_node),
             ('reply', node.get_service_names_and_types_by_node))
    return {(verb, topic) for verb, ask in found for topic, _ in ask(name, '/')}


@pytest.mark.release
@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
def test_the_policy_allows_what_the_nodes_use_and_nothing_else(tmp_path: Path) -> None:
    import rclpy
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Bool, Float32

    absent = {name for name, package in MAY_BE_ABSENT.items() if find_spec(package) is None}
    with own_domain() as domain:
        arguments = node_arguments(make_tiny_bundle(tmp_path / 'tiny'),
                                   log__folder=str(tmp_path / 'frames'))
        arguments[arguments.index('image:=/cam')] = 'image:=/camera/image_raw'
        nodes = [Process(arguments, domain, tmp_path / 'node'),
                 Process([*GOVERNOR, '--ros-args', '-r', f'confident:={FLAG}'], domain,
                         tmp_path / 'governor')]
        client = Client(domain, nodes[0])
        mission = rclpy.create_node('mission', context=client._context)
        try:
            for topic, kind in ((FLAG, Bool), ('/speed_governor/speed_factor', Float32)):
                mission.create_subscription(kind, topic, print, 10)
            # A second publisher: the node then listens to its own topic.
            client.node.create_publisher(Bool, FLAG, 10)
            client.node.create_publisher(JointState, NUMBERS, 10)
            for name, rights in enclaves().items():
                optional = {right for right in rights
                            if right[1].rpartition('/')[2] in absent
                            or name == '/mission' and right[0] == 'subscribe'}
                client.wait_until(
                    lambda name=name: name.strip('/') in client.node.get_node_names(),
                    f'{name} on the graph')

                def differences(name: str = name, rights: Any = rights, optional: Any = optional
                                ) -> set[tuple[str, str]]:
                    used = used_by(client.node, name.strip('/'))
                    return (used - rights) | (rights - used - optional)

                try:
                    client.wait_until(lambda differs=differences: not differs(),
                                      f'{name} to use what its enclave may use')
                except pytest.fail.Exception:
                    assert differences() == set(), name
                    raise
        finally:
            mission.destroy_node()
            client.close()
            for node in nodes:
                node.end()


def test_the_policy_fits_the_schema_of_sros2_and_becomes_the_same_permissions() -> None:
    pytest.importorskip('sros2', reason='the package sros2 is not here')
    etree = pytest.importorskip('lxml.etree')
    from sros2.policy import get_transport_schema, get_transport_template, load_policy

    policy = load_policy(POLICY)  # refuses what does not fit policy.xsd
    style = etree.XSLT(etree.parse(str(get_transport_template('dds', 'permissions.xsl'))))
    schema = etree.XMLSchema(etree.parse(str(get_transport_schema('dds', 'permissions.xsd'))))
    made = style(policy, allow_ros_discovery_topic=etree.XSLT.strparam('1'))
    schema.assertValid(made)
    for name, rights in enclaves().items():
        schema.assertValid(etree.fromstring(permissions(name, rights, 0).encode()))
        (grant,) = made.xpath(f'//grant[@name="{name}"]')
        assert tuple(set(grant.xpath(f'.//{tag}//topic/text()'))
                     for tag in ('publish', 'subscribe')) == dds_topics(rights)
    governance = etree.XMLSchema(etree.parse(str(get_transport_schema('dds', 'governance.xsd'))))
    governance.assertValid(etree.parse(str(POLICY.parent / 'governance.xml')))


# --- a DDS with security -------------------------------------------------------------------------

NO_SECURITY = ("doesn't have the security libraries", 'does not have security support')


@pytest.mark.release
@pytest.mark.ros
@needs_openssl
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
def test_the_node_is_heard_by_its_enclave_and_a_process_without_one_is_not(tmp_path: Path) -> None:
    (tmp_path / 'flag').write_text('true')
    with own_domain() as domain:
        keys = make_keystore(tmp_path / 'keys', domain)
        secure = {'ROS_SECURITY_ENABLE': 'true', 'ROS_SECURITY_STRATEGY': 'Enforce',
                  'ROS_SECURITY_KEYSTORE': str(keys)}
        peer = [*PEER, 'flag', '--ros-args', '-r', 'confident:=' + FLAG, '-r']
        running: list[Process] = []

        def start(arguments: list[str], environment: dict[str, str]) -> Process:
            log = tmp_path / f'log{len(running)}'
            running.append(Process(arguments, domain, log, {
                'UNCERTAINTY_SEG_TEST_FLAG': str(tmp_path / 'flag'), **environment}))
            return running[-1]

        def wait(condition: Any, what: str) -> None:
            end_s = time.monotonic() + TIMEOUT_S
            while not condition():
                if time.monotonic() > end_s:
                    pytest.fail(f'waited for {what}\n' + '\n'.join(one.output for one in running))
                time.sleep(0.1)

        try:
            governor = start([*governor_arguments('-r', 'confident:=' + FLAG), '--enclave',
                              '/speed_governor'], secure)
            wait(lambda: 'waiting for' in governor.output or not governor.is_running, 'the start')
            if any(sentence in governor.output for sentence in NO_SECURITY):
                pytest.skip('the middleware of this ROS was built without security')
            rogue = start([*peer, '__node:=uncertainty_seg'], {})
            mission = start([*peer, '__node:=mission', '--enclave', '/mission'], secure)
            assert mission.wait() != 0  # it may not publish the flag
            time.sleep(5)  # the rogue speaks all the time
            assert rogue.is_running
            assert 'speed rises' not in governor.output
            start([*peer, '__node:=uncertainty_seg', '--enclave', '/uncertainty_seg'], secure)
            wait(lambda: 'speed rises' in governor.output, 'a rise')
            assert '2 publishers' not in governor.output
        finally:
            for process in running:
                process.end()

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The shipped SROS2 policy: what it allows, and keys for it as docs/security.md makes them.

`ros2 security` turns a policy into permissions by a style sheet. What is done here is the part of
it that the shipped policy needs, so that a machine without the package sros2 can test it.

"""

from __future__ import annotations

from pathlib import Path
import subprocess
from xml.etree import ElementTree

from ros_helpers import ROOT

FOLDER = ROOT / 'config' / 'sros2'
POLICY = FOLDER / 'policy.xml'
# Verb of the policy -> the DDS topics of (what is published, what is subscribed).
DDS_TOPICS = {
    'publish': (['rt{}'], []),
    'subscribe': ([], ['rt{}']),
    'reply': (['rr{}Reply'], ['rq{}Request']),
    'request': (['rq{}Request'], ['rr{}Reply']),
}
CURVE = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes')


def enclaves(policy: Path = POLICY) -> dict[str, set[tuple[str, str]]]:
    """Return what each enclave may do: verb and full name of a topic or service."""
    found = {}
    for enclave in ElementTree.parse(policy).iter('enclave'):
        rights = found[enclave.attrib['path']] = set()
        for profile in enclave.iter('profile'):
            node = f'{profile.attrib["ns"].rstrip("/")}/{profile.attrib["node"]}'
            for names in profile:
                for verb, qualifier in names.attrib.items():
                    assert qualifier == 'ALLOW', 'the shipped policy denies by not allowing'
                    rights |= {(verb, full_name(name.text, node)) for name in names}
    return found


def full_name(name: str | None, node: str) -> str:
    assert name and name[0] in '~/', f'{name} depends on the namespace'
    return node + name[1:] if name[0] == '~' else name


def dds_topics(rights: set[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """Return the DDS topics that may be published and subscribed."""
    published, subscribed = {'ros_discovery_info'}, {'ros_discovery_info'}
    for verb, name in rights:
        for topics, forms in zip((published, subscribed), DDS_TOPICS[verb], strict=True):
            topics |= {form.format(name) for form in forms}
    return published, subscribed


def permissions(enclave: str, rights: set[tuple[str, str]], domain: int) -> str:
    """Return the permissions of DDS security for an enclave."""
    def listed(tag: str, topics: set[str]) -> str:
        inner = ''.join(f'<topic>{topic}</topic>' for topic in sorted(topics))
        return f'<{tag}><topics>{inner}</topics></{tag}>'

    published, subscribed = dds_topics(rights)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:noNamespaceSchemaLocation="http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_permissions.xsd">
<permissions><grant name="{enclave}"><subject_name>CN={enclave}</subject_name>
<validity><not_before>2020-01-01T00:00:00</not_before><not_after>2120-01-01T00:00:00</not_after></validity>
<allow_rule><domains><id>{domain}</id></domains>
{listed('publish', published)}{listed('subscribe', subscribed)}</allow_rule>
<default>DENY</default></grant></permissions></dds>
"""


def make_keystore(folder: Path, domain: int, policy: Path = POLICY) -> Path:
    """Make the keys and signed files of every enclave with openssl; return the keystore."""
    folder.mkdir()
    _openssl('req', '-x509', *CURVE, '-keyout', folder / 'ca.key.pem', '-out',
             folder / 'ca.cert.pem', '-days', '3650', '-subj', '/CN=uncertainty_seg CA')
    governance = folder / 'governance.xml'
    governance.write_text((FOLDER / 'governance.xml').read_text().replace(
        '<id>0</id>', f'<id>{domain}</id>'))
    for enclave, rights in enclaves(policy).items():
        place = folder / 'enclaves' / enclave.strip('/')
        place.mkdir(parents=True)
        (place / 'permissions.xml').write_text(permissions(enclave, rights, domain))
        _sign(folder, governance, place / 'governance.p7s')
        _sign(folder, place / 'permissions.xml', place / 'permissions.p7s')
        _openssl('req', '-new', *CURVE, '-keyout', place / 'key.pem', '-out', place / 'csr.pem',
                 '-subj', '/CN=' + enclave.replace('/', r'\/'))
        _openssl('x509', '-req', '-in', place / 'csr.pem', '-CA', folder / 'ca.cert.pem', '-CAkey',
                 folder / 'ca.key.pem', '-CAcreateserial', '-days', '3650', '-out',
                 place / 'cert.pem')
        for name in ('identity_ca.cert.pem', 'permissions_ca.cert.pem'):
            (place / name).write_bytes((folder / 'ca.cert.pem').read_bytes())
    return folder


def _sign(folder: Path, source: Path, target: Path) -> None:
    _openssl('smime', '-sign', '-text', '-in', source, '-out', target, '-signer',
             folder / 'ca.cert.pem', '-inkey', folder / 'ca.key.pem')


def _openssl(*words: str | Path) -> None:
    subprocess.run(['openssl', *map(str, words)], check=True, capture_output=True)

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Sign bytes and check signatures: Ed25519, with keys and signatures in the formats of openssl.

A key pair can be made, and a signature checked, without this package::

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub.pem
    openssl pkeyutl -verify -rawin -pubin -inkey key.pub.pem -in SHA256SUMS \
        -sigfile SHA256SUMS.sig
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any, Protocol

from uncertainty_seg.errors import (
    BackendUnavailableError,
    ConfigError,
    install_command,
    ModelBundleError,
)
from uncertainty_seg.storage.foreign_files import read_bytes, why

# The file of a key has about 120 bytes.
_MOST_KEY_BYTES = 10_000
# An Ed25519 public key as DER, in base64: the one line inside its PEM file.
_KEY_LINE_BYTES = 44
_MAKE = 'openssl genpkey -algorithm ed25519 -out key.pem'
_PUBLIC = 'openssl pkey -in key.pem -pubout -out key.pub.pem'


class SigningKey(Protocol):
    """A private key of the library cryptography."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature of `data`, 64 bytes."""


def read_private_key(path: Path | str) -> SigningKey:
    """
    Read a private key without a password.

    Raises ConfigError if it is not a PEM file of an Ed25519 private key, and
    BackendUnavailableError if the library is not installed.
    """
    _library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(expanduser(path))
    data = _read(path, 'the private key', _MAKE)
    try:
        key = serialization.load_pem_private_key(data, None)
    except Exception as err:  # the library's own classes differ between versions
        raise ConfigError(f'{path} is no private key that can be read (encrypted, damaged, or no '
                          'PEM file)', 'a PEM file of an Ed25519 key without a password',
                          _MAKE) from err
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f'{path} is a private key of another kind', 'Ed25519', _MAKE)
    return key


def require_signature(data: bytes, signature: bytes, keys: Sequence[str], what: str) -> None:
    """
    Refuse bytes that no public key of `keys`, PEM files or the line inside of one, has signed.

    `what` names the bytes in the error. Raises ModelBundleError if the signature is of none of the
    keys, ConfigError if a key cannot be read, BackendUnavailableError without the library.
    """
    library = _library()
    for key in [_public_key(key) for key in keys]:
        try:
            key.verify(signature, data)
        except library.InvalidSignature:
            continue
        return
    raise ModelBundleError(
        f'{what} is signed by none of the {len(keys)} trusted_keys, or it or its signature was '
        'changed', 'the signature of a trusted key',
        'restore the bundle from its source, or sign it again')


def _library() -> Any:
    try:
        from cryptography import exceptions
    except ImportError as err:
        raise BackendUnavailableError(
            f'cryptography cannot be imported ({err})', 'cryptography, for signed bundles',
            f'apt install python3-cryptography, or {install_command("cryptography")}') from err
    return exceptions


def _public_key(text: str) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    shown = f'the trusted key {text!r:.80}'
    try:
        line = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        line = b''
    is_line = len(line) == _KEY_LINE_BYTES
    data = line if is_line else _read(Path(expanduser(text)), 'the trusted key', _PUBLIC)
    if b'PRIVATE KEY' in data:
        raise ConfigError(f'{shown} is a private key', 'the public key, since a private key must '
                          'not be on a vehicle', _PUBLIC)
    load = serialization.load_der_public_key if is_line else serialization.load_pem_public_key
    try:
        key = load(data)
    except Exception as err:  # the library's own classes differ between versions
        raise ConfigError(f'{shown} cannot be read ({err})',
                          'a PEM file of an Ed25519 public key, or the line inside of it',
                          _PUBLIC) from err
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f'{shown} is of another kind', 'Ed25519', _MAKE)
    return key


def _read(path: Path, what: str, fix: str) -> bytes:
    try:
        return read_bytes(path, _MOST_KEY_BYTES)
    except (OSError, ValueError) as err:
        raise ConfigError(f'{what} {str(path)!r:.80} cannot be read ({why(err)})', 'a PEM file',
                          fix) from err


def public_line(key: Any) -> str:
    """Return the public key of a private one as the base64 line of its PEM file."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Sign bytes and check signatures: Ed25519, keys and signatures as openssl reads and writes them.

A key pair is made, and a signature checked, without this package::

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub.pem
    openssl pkeyutl -verify -rawin -pubin -inkey key.pub.pem -in SHA256SUMS \
        -sigfile SHA256SUMS.sig

The library is loaded when a key is used, and not before.

"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
import getpass
from pathlib import Path
import sys
from typing import Any, Protocol

from uncertainty_seg.errors import (
    BackendUnavailableError,
    ConfigError,
    install_command,
    ModelBundleError,
)

# A key's file has some 120 bytes.
_MOST_KEY_BYTES = 10_000
# An Ed25519 public key as DER, in base64: the one line inside its PEM file.
_KEY_LINE_BYTES = 44
_MAKE = 'openssl genpkey -algorithm ed25519 -out key.pem'
_PUBLIC = 'openssl pkey -in key.pem -pubout -out key.pub.pem'


class SigningKey(Protocol):
    """A private key of the library."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature of some bytes, 64 bytes."""


def read_private_key(path: Path | str) -> SigningKey:
    """
    Read a private key; the password of an encrypted one is asked for on the terminal.

    Raises ConfigError if it is no PEM file of an Ed25519 private key, and BackendUnavailableError
    if the library is not installed.
    """
    _library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(path).expanduser()
    data = _read(path, 'the private key', _MAKE)
    try:
        password = _password(path) if b'ENCRYPTED' in data else None
        key = serialization.load_pem_private_key(data, password)
    except ConfigError:
        raise
    except Exception as err:  # the library's own classes differ between versions
        reason = 'a wrong password' if password else 'damaged, or no PEM file'
        raise ConfigError(f'{path} is no private key that can be read ({reason})',
                          'a PEM file of an Ed25519 key', _MAKE) from err
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f'{path} is a private key of another kind', 'Ed25519', _MAKE)
    return key


def _password(path: Path) -> bytes:
    if not sys.stdin.isatty():
        raise ConfigError(f'the private key {path} is encrypted', 'a terminal on which its '
                          'password can be asked for', 'sign in a terminal')
    return getpass.getpass(f'password of {path}: ').encode()


def require_signature(data: bytes, signature: bytes, keys: Sequence[str], what: str) -> None:
    """
    Refuse bytes that none of some keys has signed.

    Parameters
    ----------
    data, signature : bytes
        What was signed, and 64 bytes.
    keys : sequence of str
        Public keys: PEM files, or the base64 line inside of one.
    what : str
        Name of the signed thing, for the error.

    Raises
    ------
    ConfigError
        If a key cannot be read.
    ModelBundleError
        If the signature is of none of them.
    BackendUnavailableError
        If the library is not installed.

    """
    library = _library()
    known = [_public_key(key) for key in keys]
    for key in known:
        try:
            key.verify(signature, data)
        except library.InvalidSignature:
            continue
        return
    raise ModelBundleError(
        f'{what} is signed by none of the {len(known)} trusted_keys, or it or its signature was '
        'changed', 'the signature of a trusted key',
        'restore the bundle from its source, or sign it with uncertainty_seg sign')


def _library() -> Any:
    try:
        from cryptography import exceptions
    except ImportError as err:
        raise BackendUnavailableError(
            f'cryptography cannot be imported ({err})', 'it, for the signatures of bundles',
            f'apt install python3-cryptography, or {install_command("cryptography")}') from err
    return exceptions


def _public_key(text: str) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        line = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        line = b''
    shown = f'{text!r:.80}'
    try:
        if len(line) == _KEY_LINE_BYTES:
            key = serialization.load_der_public_key(line)
        else:
            data = _read(Path(text).expanduser(), 'the trusted key', _PUBLIC)
            if b'PRIVATE KEY' in data:
                raise ConfigError(f'the trusted key {shown} is a private key', 'its public key, '
                                  'since the private one belongs on no vehicle', _PUBLIC)
            key = serialization.load_pem_public_key(data)
    except ConfigError:
        raise
    except Exception as err:  # the library's own classes differ between versions
        raise ConfigError(f'the trusted key {shown} cannot be read ({err})',
                          'a PEM file of an Ed25519 public key, or the line inside of it',
                          _PUBLIC) from err
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f'the trusted key {shown} is of another kind', 'Ed25519', _MAKE)
    return key


def _read(path: Path, what: str, fix: str) -> bytes:
    try:
        with path.open('rb') as file:
            data = file.read(_MOST_KEY_BYTES + 1)
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise ConfigError(f'{what} {str(path)!r:.80} cannot be read ({reason})', 'a PEM file',
                          fix) from err
    if len(data) > _MOST_KEY_BYTES:
        raise ConfigError(f'{what} {path} has more than {_MOST_KEY_BYTES} bytes', 'a PEM file',
                          fix)
    return data


def public_line(key: Any) -> str:
    """Return the public key of a private one as the base64 line of its PEM file."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()

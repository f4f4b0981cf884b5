# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
r"""
Sign a bundle with an Ed25519 key, so that a node with `trusted_keys` takes it.

Every file of the folder is listed with its hash in SHA256SUMS, and that list is signed. To make a
key pair (keep key.pem off the vehicle; key.pub.pem is what trusted_keys names):

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub.pem

Anyone can check a signed bundle without this package, in its folder:

    sha256sum -c SHA256SUMS
    openssl pkeyutl -verify -rawin -pubin -inkey key.pub.pem -in SHA256SUMS \
        -sigfile SHA256SUMS.sig

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import print_json
from uncertainty_seg.errors import ModelBundleError

MISUSE = (ModelBundleError,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('key', type=Path, metavar='KEY', help='private key, a PEM file')


def run(args: argparse.Namespace) -> int:
    """Sign, and name what a node has to be given."""
    from uncertainty_seg.storage.model_bundle import find_bundle, sign_bundle
    from uncertainty_seg.storage.signatures import public_line, read_private_key

    key = read_private_key(args.key)
    folder = find_bundle(args.bundle)
    sign_bundle(folder, key)
    print_json({'bundle': str(folder), 'trusted_key': public_line(key)})
    return 0

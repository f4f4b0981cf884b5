# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A node with trusted keys loads only bundles signed with one of them, byte for byte."""

from dataclasses import dataclass
from pathlib import Path
import shutil
import subprocess
import sys

from cases import for_each
from conftest import make_tiny_bundle
import pytest

from uncertainty_seg.backends import opening
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendUnavailableError, ConfigError, ModelBundleError
from uncertainty_seg.storage import signatures
from uncertainty_seg.storage.model_bundle import (
    load_bundle,
    sign_bundle,
    update_measured,
    write_calibration,
)

PRIMITIVES = 'cryptography.hazmat.primitives'
serialization = pytest.importorskip(f'{PRIMITIVES}.serialization')
ec = pytest.importorskip(f'{PRIMITIVES}.asymmetric.ec')
Ed25519PrivateKey = pytest.importorskip(f'{PRIMITIVES}.asymmetric.ed25519').Ed25519PrivateKey


@dataclass(frozen=True)
class KeyPair:
    """PEM files of a private and a public key, and the base64 line of the public one."""

    private: Path
    public: Path
    line: str


def key_pair(folder: Path, name: str = 'key', key: object = None, password: str = '') -> KeyPair:
    """Write a key pair in openssl's format."""
    made = key or Ed25519PrivateKey.generate()
    secret = (serialization.BestAvailableEncryption(password.encode()) if password
              else serialization.NoEncryption())
    private, public = folder / f'{name}.pem', folder / f'{name}.pub.pem'
    private.write_bytes(made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    public.write_bytes(made.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return KeyPair(private, public, ''.join(public.read_text().splitlines()[1:-1]))


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    """Return a key pair."""
    return key_pair(tmp_path)


@pytest.fixture
def signed(tiny_bundle: Path, keys: KeyPair) -> Path:
    """Sign a calibrated bundle."""
    sign_bundle(tiny_bundle, signatures.read_private_key(keys.private))
    return tiny_bundle


def test_a_signed_bundle_is_taken_by_file_and_by_line_of_one_of_several_keys(
    signed: Path, keys: KeyPair, tmp_path: Path
) -> None:
    other = key_pair(tmp_path, 'other')
    for key in (str(keys.public), keys.line):
        assert load_bundle(signed, trusted_keys=(other.line, key)).calibration is not None
    with pytest.raises(ModelBundleError):
        load_bundle(signed, trusted_keys=(other.line,))
    assert load_bundle(signed).card.name == 'tiny'


def test_an_unsigned_bundle_is_taken_unless_keys_are_named(
    tiny_bundle: Path, keys: KeyPair
) -> None:
    load_bundle(tiny_bundle)
    with pytest.raises(ModelBundleError):
        load_bundle(tiny_bundle, trusted_keys=(keys.line,))
    (tiny_bundle / 'SHA256SUMS').unlink()
    with pytest.raises(ModelBundleError):
        load_bundle(tiny_bundle, trusted_keys=(keys.line,))


def test_a_list_made_anew_for_a_changed_file_is_not_signed(signed: Path, keys: KeyPair) -> None:
    signature = (signed / 'SHA256SUMS.sig').read_bytes()
    update_measured(load_bundle(signed), {'val_mean_iou': 0.9}, '')
    (signed / 'SHA256SUMS.sig').write_bytes(signature)  # the outdated signature
    load_bundle(signed)
    with pytest.raises(ModelBundleError, match='trusted_keys'):
        load_bundle(signed, trusted_keys=(keys.line,))


def test_no_stale_signature_is_left_by_what_changes_a_bundle(
    signed: Path, keys: KeyPair, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(signed)
    assert bundle.calibration is not None
    write_calibration(bundle, bundle.calibration)
    assert not (signed / 'SHA256SUMS.sig').exists()
    assert 'signed' in caplog.text
    sign_bundle(signed, signatures.read_private_key(keys.private))
    load_bundle(signed, trusted_keys=(keys.line,))


def test_a_damaged_bundle_is_not_signed(tiny_bundle: Path, keys: KeyPair) -> None:
    (tiny_bundle / 'passes.onnx').write_bytes(b'other')
    with pytest.raises(ModelBundleError, match='passes.onnx'):
        sign_bundle(tiny_bundle, signatures.read_private_key(keys.private))
    assert not (tiny_bundle / 'SHA256SUMS.sig').exists()


def test_a_loaded_bundle_is_looked_at_again_when_keys_are_named(
    signed: Path, keys: KeyPair, tmp_path: Path
) -> None:
    bundle = load_bundle(signed)
    other = key_pair(tmp_path, 'other')
    settings = Settings(backend='onnxruntime', threads=1, trusted_keys=(keys.line,))
    opening.open_pipeline(bundle, settings).close()
    with pytest.raises(ModelBundleError):
        opening.open_pipeline(bundle, settings, trusted_keys=(other.line,))


@for_each('text', ['', 'nowhere.pem', 'AAAA', 'MCowBQYDK2VwAyEA' + 'A' * 43, '\0'])
def test_a_trusted_key_that_is_none_stops_the_start(tmp_path: Path, text: str) -> None:
    pair = key_pair(tmp_path)
    folder = make_tiny_bundle(tmp_path / 'tiny')
    sign_bundle(folder, signatures.read_private_key(pair.private))
    # Also together with a valid key, so that a typing error is noticed.
    for trusted in ((text,), (pair.line, text)):
        with pytest.raises(ConfigError):
            load_bundle(folder, trusted_keys=trusted)


def test_keys_of_another_kind_are_refused(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    curve = key_pair(tmp_path, 'curve', ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ConfigError, match='Ed25519'):
        load_bundle(signed, trusted_keys=(str(curve.public),))
    with pytest.raises(ConfigError, match='Ed25519'):
        signatures.read_private_key(curve.private)
    with pytest.raises(ConfigError):
        load_bundle(signed, trusted_keys=(str(keys.private),))
    with pytest.raises(ConfigError):
        signatures.read_private_key(keys.public)
    with pytest.raises(ConfigError):
        signatures.read_private_key(tmp_path / 'nowhere.pem')
    with pytest.raises(ConfigError, match='/dev/zero'):
        signatures.read_private_key(Path('/dev/zero'))
    locked = key_pair(tmp_path, 'locked', password='reef')
    with pytest.raises(ConfigError, match='locked'):
        signatures.read_private_key(locked.private)


def test_without_the_library_trusted_keys_refuse_and_no_keys_do_not_care(
    signed: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'cryptography', None)
    load_bundle(signed)
    with pytest.raises(BackendUnavailableError):
        load_bundle(signed, trusted_keys=(keys.line,))


@pytest.mark.skipif(shutil.which('openssl') is None, reason='no openssl')
def test_openssl_makes_the_keys_and_checks_the_signature(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def openssl(*words: str) -> str:
        done = subprocess.run(['openssl', *words], cwd=tmp_path, capture_output=True, text=True,
                              check=True)
        return done.stdout

    openssl('genpkey', '-algorithm', 'ed25519', '-out', 'key.pem')
    openssl('pkey', '-in', 'key.pem', '-pubout', '-out', 'key.pub.pem')
    assert main(['compile', str(tiny_bundle), '--sign', str(tmp_path / 'key.pem')]) == 0
    line = (tmp_path / 'key.pub.pem').read_text().splitlines()[1]
    assert line in capsys.readouterr().out
    load_bundle(tiny_bundle, trusted_keys=(str(tmp_path / 'key.pub.pem'),))
    checked = openssl('pkeyutl', '-verify', '-rawin', '-pubin', '-inkey', 'key.pub.pem',
                      '-in', str(tiny_bundle / 'SHA256SUMS'),
                      '-sigfile', str(tiny_bundle / 'SHA256SUMS.sig'))
    assert 'Verified Successfully' in checked

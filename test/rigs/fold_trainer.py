# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A training that takes no time: `fold_trainer.py OUT FOLD SECONDS` writes the tiny bundle."""

from pathlib import Path
import sys
import time

from conftest import make_tiny_bundle


def main(out: Path, fold: str, seconds: float) -> None:
    """Note that it was called, wait, and write the bundle."""
    with (out.parent / 'calls.txt').open('a') as calls:
        calls.write(f'{fold}\n')
    if fold == '13':
        sys.exit('unlucky')
    time.sleep(seconds)
    make_tiny_bundle(out, calibrated=False, words=out.name)


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))

# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is kept of a run while it goes, and one that was stopped goes on as if it had not been."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import PLAIN, TinyNet, toy  # noqa: E402

from uncertainty_seg.errors import TrainingError  # noqa: E402
from uncertainty_seg.training.fit import loop  # noqa: E402
from uncertainty_seg.training.fit.augmentation import Augmentation  # noqa: E402
from uncertainty_seg.training.fit.loop import fit  # noqa: E402
from uncertainty_seg.training.fit.run import finished_epochs, FitSettings, Watch  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(('every_s', 'watch', 'kept'), [
    (0.0, Watch(), [0, 1, 2, 3, 4, 5, 6]), (math.inf, Watch(), [0, 6]),
    (math.inf, Watch(lambda net: 0.5, patience=3), [0, 3])])  # none is better than the first
def test_the_first_epoch_the_last_and_one_every_while_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, watch: Watch, kept: list[int]
) -> None:
    monkeypatch.setattr(loop, 'KEEP_EVERY_S', every_s)
    told: list[int] = []
    settings = FitSettings(epochs=7, batch=4, augmentation=PLAIN)
    fit(TinyNet(), toy(), settings, lambda epoch, *_: told.append(epoch),
        tmp_path / 'run.progress', watch)
    assert told == kept and finished_epochs(tmp_path / 'run.progress') == kept[-1] + 1


@pytest.mark.parametrize('every_s', [0.0, math.inf])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float
) -> None:
    monkeypatch.setattr(loop, 'KEEP_EVERY_S', every_s)
    settings = FitSettings(epochs=3, batch=4, augmentation=PLAIN)
    stopped = tmp_path / 'run.progress'

    def run(on_epoch=None, settings=settings) -> torch.nn.Module:
        torch.manual_seed(0)
        return fit(TinyNet(), toy(), settings, on_epoch, stopped)

    whole = copy.deepcopy(run())
    stopped.unlink()

    def stop(epoch: int, loss: float, average: torch.nn.Module) -> None:
        if epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    torch.manual_seed(99)  # another process has another state
    for (name, value), other in zip(run().state_dict().items(), whole.state_dict().values(),
                                    strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0, msg=name)
    with pytest.raises(TrainingError, match='run.progress is of a run with the epochs 3, not 5, '
                       'expected the run that is to go on: take another --out, or delete it'):
        run(settings=dataclasses.replace(settings, epochs=5))


def test_small_epochs_see_less_of_the_same() -> None:
    settings = FitSettings(epochs=4, small_epochs=2, augmentation=Augmentation(crop=(288, 224)))
    small, large = settings.augmentation_of(1), settings.augmentation_of(2)
    assert (small.crop, large.crop) == ((224, 160), (288, 224))
    assert small.scale == (0.7 * 0.75, 1.5 * 0.75)
    assert large is settings.augmentation

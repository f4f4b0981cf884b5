# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Calibrate, evaluate and compare: the functions of the verbs and of the Python API."""

from __future__ import annotations

from collections.abc import Sequence
import math
import os
from pathlib import Path

from uncertainty_seg.backends.opening import as_bundle, checked_settings
from uncertainty_seg.calibration.calibrate import (
    ALPHAS,
    CalibrationOutcome,
    CalibrationRequest,
    fit_calibration,
)
from uncertainty_seg.calibration.carried_over import CarriedOver, carry_over, ERROR
from uncertainty_seg.calibration.compare import (
    compare_on,
    Comparison,
    contenders_of,
)
from uncertainty_seg.calibration.evaluate import (
    evaluate_bundle,
    Evaluated,
)
from uncertainty_seg.calibration.labelled_pairs import labelled_frames, require_classes
from uncertainty_seg.calibration.report.page import require_report_place, write_page
from uncertainty_seg.calibration.report.reports import (
    comparison_page,
    write_calibration_report,
    write_evaluation_report,
)
from uncertainty_seg.calibration.stats.bad_rule import BadRule, DEFAULT_RULE
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.gate import promise_text
from uncertainty_seg.core.settings import GateSettings, Settings
from uncertainty_seg.errors import ConfigError, require_libraries
from uncertainty_seg.storage.labelled_folder import blocks_path, measured_split
from uncertainty_seg.storage.model_bundle import sign_bundle, update_measured, write_calibration
from uncertainty_seg.storage.signatures import read_private_key, SigningKey
from uncertainty_seg.storage.whole_files import json_text, replace_file


def calibrate(
    bundle: ModelBundle | Path | str,
    train: Path | str,
    val: Path | str,
    limits: Path | str,
    *,
    settings: Settings | None = None,
    blocks: Path | str | None = None,
    bad: str = DEFAULT_RULE,
    alphas: Sequence[float] = ALPHAS,
    scores: Sequence[str] = (),
    report: Path | str | None = None,
    sign: Path | str | None = None,
) -> CalibrationOutcome:
    """
    Fit temperature and thresholds, and write calibration.json and figures into the bundle.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Name of an included model, or folder; an old calibration is ignored.
    train, val, limits : Path or str
        Folders of labelled images (images/, masks/, classes.json); the splits 'train', 'val' and
        'limits' where they have a splits.json. The network must not be trained on `val`; the
        images of `limits`, on which the thresholds are fitted, must be used for nothing else.
    settings : Settings, optional
        Backend, T, seed, mask policy, precision and ignore mask, as the node will run.
    blocks : Path or str, optional
        File with the block of each image of `limits`; without it each image is a block.
    bad : str
        Rule for bad masks: 'iou<0.5', 'iou[diver]<0.5', 'accuracy<0.7', joined by 'or'.
    alphas : sequence of float
        Promises: largest share of frames that are accepted and bad.
    scores : sequence of str
        Scores of the gate; by default 'margin.class_mean', and the guards 'features.knn' and
        'mutual_information.top' if the bundle has features and several passes.
    report : Path or str, optional
        HTML file to write.
    sign : Path or str, optional
        Private key to sign the bundle with. Without it an earlier signature is removed.

    Returns
    -------
    CalibrationOutcome
        The calibration, and the measurements from which it was fitted.

    Raises
    ------
    CalibrationError
        If there are too few blocks, all frames are bad, or frames do not permit a promise.
    ConfigError
        If the rule cannot be read or names a class that no frame has, a score does not exist, or
        a file cannot be written.
    DatasetError
        If the folders or the file of blocks are wrong, an image is in two of the splits, or
        according to the card the network was trained on an image of `limits`.
    BackendUnavailableError
        If a library is not installed.

    """
    request = CalibrationRequest(
        bundle=as_bundle(bundle, has_calibration=False), settings=checked_settings(settings),
        train=Path(train), val=Path(val), limits=Path(limits),
        blocks=blocks_path(limits, blocks), bad=bad, alphas=tuple(sorted(set(alphas))),
        scores=tuple(scores))
    key = _checked_key(request.bundle, report, sign)
    found = fit_calibration(request)
    write_calibration(request.bundle, found.calibration, found.features)
    # Figures may be undefined, such as the AUROC of bad frames if there are none.
    finite = {name: value for name, value in found.metrics().items() if math.isfinite(value)}
    update_measured(request.bundle, finite, promise_text(found.calibration, GateSettings()))
    if key is not None:
        sign_bundle(request.bundle.folder, key)
    if report:
        write_calibration_report(Path(report), request, found)
    return found


def calibrate_like(
    bundle: ModelBundle | Path | str,
    like: ModelBundle | Path | str,
    data: Path | str,
    *,
    settings: Settings | None = None,
    error: float = ERROR,
    sign: Path | str | None = None,
) -> CarriedOver:
    """
    Carry the thresholds of a bundle over to the same network in another precision, and write them.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        The variant; shipped name or folder. Its old calibration is ignored.
    like : ModelBundle, Path or str
        The calibrated bundle from which the variant was made.
    data : Path or str
        Folder of images like those that `like` was calibrated on; no masks are needed.
    error : float
        Largest share of frames that `bundle` may accept and `like` not, added to each alpha; 0.005
        needs 398 images.
    settings, sign
        See `calibrate`.

    Returns
    -------
    CarriedOver
        The calibration as written, and how far the thresholds were lowered.

    Raises
    ------
    UncertaintySegError
        If the two are not the same network, `like` has no promise, there are too few images, or
        the scores differ too much.

    """
    variant, source = as_bundle(bundle, has_calibration=False), as_bundle(like)
    key = _checked_key(variant, None, sign)
    found = carry_over(variant, source, Path(data), checked_settings(settings), error)
    write_calibration(variant, found.calibration, source.features)
    update_measured(variant, variant.card.metrics, promise_text(found.calibration, GateSettings()))
    if key is not None:
        sign_bundle(variant.folder, key)
    return found


def _checked_key(
    bundle: ModelBundle, report: Path | str | None, sign: Path | str | None
) -> SigningKey | None:
    """Check, before minutes of work, that all results can be written; return the signing key."""
    require_libraries('scipy')
    if report:
        require_report_place(Path(report))
    key = None if sign is None else read_private_key(sign)
    if not os.access(bundle.folder, os.W_OK):
        raise ConfigError(f'bundle {bundle.folder} is read-only', 'a writable folder',
                          'calibrate a copy of it')
    return key


def evaluate(
    bundle: ModelBundle | Path | str,
    data: Path | str,
    *,
    settings: Settings | None = None,
    split: str = '',
    ood: Path | str | None = None,
    blocks: Path | str | None = None,
    bad: str | None = None,
    report: Path | str | None = None,
) -> Evaluated:
    """
    Measure a bundle on labelled images; `compare` measures several.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Shipped name or folder.
    data : Path or str
        Folder of labelled images (images/, masks/, classes.json).
    settings : Settings, optional
        Backend, T, seed, mask policy, precision, ignore mask and ``gate.alpha``.
    split : str
        Split of `data`, if it has a splits.json; empty for 'control' if there is one, else 'val'.
    ood : Path or str, optional
        Folder of out-of-distribution images, which should be refused.
    blocks : Path or str, optional
        File with the block of each image; without it each image is a block.
    bad : str, optional
        Rule for bad masks; by default that of the calibration, else 'iou<0.5'.
    report : Path or str, optional
        HTML file to write; all figures go to FILE.json next to it.

    Returns
    -------
    Evaluated
        The measurements; ``summary()`` gives all figures as a dictionary. Its ``flag`` is None
        if the bundle has no calibration.

    Raises
    ------
    CalibrationError
        If the bundle has a calibration for other settings.
    ConfigError
        If the rule cannot be read, there is no such promise, or the report cannot be written.
    DatasetError
        If the folders or the file of blocks are wrong.
    BackendUnavailableError
        If a library is not installed.

    """
    opened, used, given = as_bundle(bundle), checked_settings(settings), blocks_path(data, blocks)
    require_libraries('scipy')
    if report:
        require_report_place(Path(report))
    found = evaluate_bundle(opened, used, Path(data), measured_split(Path(data), split),
                            None if ood is None else Path(ood), given, bad)
    if report:
        write_evaluation_report(Path(report), opened, used, found)
        replace_file(figures_file(Path(report)), json_text(found.summary()) + '\n')
    return found


def figures_file(report: Path) -> Path:
    """Return the path of the JSON file with all figures of a report."""
    return report.with_name(f'{report.name}.json')


def compare(
    bundles: Sequence[ModelBundle | Path | str],
    data: Path | str,
    *,
    settings: Settings | None = None,
    split: str = '',
    ood: Path | str | None = None,
    blocks: Path | str | None = None,
    bad: str | None = None,
    report: Path | str | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Comparison:
    """
    Compare bundles with the first, or one with its deterministic pass, on labelled images.

    Parameters
    ----------
    bundles : sequence of ModelBundle, Path or str
        Shipped names or folders, all with the classes of the first.
    data, split, ood, blocks, bad, report
        See `evaluate`; `bad` is by default the rule of the first bundle's calibration.
    settings : Settings, optional
        Backend, threads, seed, precision and ignore mask; T is that of each bundle.
    alphas : sequence of float
        Shares of frames that may be accepted and bad.

    Returns
    -------
    Comparison
        Its rows; ``summary()`` gives them as a dictionary.

    Raises
    ------
    ModelBundleError
        If the bundles have different classes, or one is given twice.
    DatasetError
        If the folders or the file of blocks are wrong, or there are too few frames.
    ConfigError
        If the rule cannot be read, or a file cannot be written.
    BackendUnavailableError
        If a library is not installed.

    """
    if not bundles:
        raise ConfigError('no bundle to compare', 'at least one')
    if report:
        require_report_place(Path(report))
    given, used = [as_bundle(bundle) for bundle in bundles], checked_settings(settings)
    contenders = contenders_of(given)
    made = given[0].calibration
    rule = BadRule.parse(bad or (made.promises[0].bad if made and made.promises else DEFAULT_RULE),
                         given[0].card.class_names)
    frames = labelled_frames(given[0], used, Path(data), measured_split(Path(data), split),
                             blocks_path(data, blocks), None if ood is None else Path(ood))
    require_classes(rule, frames.known, given[0].card.class_names)
    found = compare_on(contenders, frames, rule, used, alphas)
    if report:
        write_page(Path(report), comparison_page(found))
        replace_file(figures_file(Path(report)), json_text(found.summary()) + '\n')
    return found

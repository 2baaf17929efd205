"""Which rows train, which choose and which are held out: seeded, by class, by group or by time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.given import TEST, TRAIN, VALIDATION
from search.errors import DataError, one_line
from search.studyfile.schema import DataDefinition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.data.table import Rows

Split = tuple["NDArray[np.intp]", "NDArray[np.intp]"]


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part.

    Attributes:
        folds: Numbers (training, validation) of each fold, counted in `rest`.
        rest: All rows but the test part.
    """

    training: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    rest: NDArray[np.intp]
    folds: tuple[Split, ...] = ()


def split(
    rows: Rows,
    given: Mapping[str, int],
    settings: DataDefinition,
    labels: NDArray[Any] | None,
    *,
    steady: bool = False,
    fold_seed: int | None = None,
) -> Parts:
    """Choose which rows train, which choose and which are held out.

    Args:
        rows: All rows, those of the training, validation and test part behind one another.
        given: How many rows each part has that came as a part of its own, by its name; one `all` for
            rows that came together.
        settings: How to split.
        labels: The class of each row, or a column of 0 and 1 for each label, whose shares each part keeps; else None.
        steady: Whether the numbers of rows differ from trial to trial: a row is then known by its place
            before the last one, and stays in its part.
        fold_seed: Seed of the folds alone; None for the study's.

    Raises:
        DataError: A part would be empty, or a class too small to be in each.
    """
    rows = replace(rows, x=np.arange(len(rows)), y=None, weight=None)  # what is taken of them here is not copied
    independent = rows.group is None and rows.time is None
    everything, drawn = np.arange(len(rows)), len(given) == 1
    classes = labels if independent else None
    steady = steady and independent
    if steady and drawn:
        rest, test = _drawn_alike(everything, settings.test_size, settings.seed, "test_size")
    elif TEST in given:
        rest, test = everything[: -given[TEST]], everything[-given[TEST] :]
    else:
        among = everything[: given.get(TRAIN, len(everything))]
        training, test = _cut_among(rows, among, settings.test_size, settings, classes, "test_size")
        rest = np.concatenate([training, everything[len(among) :]])
    if settings.folds:
        seeded = settings if fold_seed is None else settings.model_copy(update={"seed": fold_seed})
        labelled = None if classes is None else classes[rest]
        chosen = folds(rows.take(rest), seeded, labelled, redrawn=fold_seed is not None)
        training, validation = (rest[side] for side in chosen[0])
        return Parts(training, validation, test, rest, chosen)
    if VALIDATION in given:
        ahead = len(rest) - given[VALIDATION]
        return Parts(rest[:ahead], rest[ahead:], test, rest)
    if steady and drawn:
        training, validation = _drawn_alike(rest, settings.validation_size, settings.seed + 1, "validation_size")
    elif drawn and classes is None and independent:  # as Keras does: the rows are in random order already
        training, validation = (rest[side] for side in cut_last(len(rest), settings.validation_size))
    else:
        training, validation = _cut_among(rows, rest, settings.validation_size, settings, classes, "validation_size")
    return Parts(training, validation, test, rest)


def _too_few(key: str, share: float, count: int) -> DataError:
    return DataError(f"data.{key}: {share} of {count} rows leaves a part without rows; use more rows or another share")


def _drawn_alike(among: NDArray[np.intp], share: float, seed: int, key: str) -> Split:
    """Return a split by a draw for each row that depends on its place before the last row alone."""
    last = int(among[-1]) if len(among) else -1
    second = np.random.default_rng(seed).random(last + 1)[last - among] < share
    if not second.any() or second.all():
        raise _too_few(key, share, len(among))
    return among[~second], among[second]


def _cut_among(
    rows: Rows,
    among: NDArray[np.intp],
    share: float,
    settings: DataDefinition,
    classes: NDArray[Any] | None,
    key: str,
) -> Split:
    first, second = cut(rows.take(among), share, settings, None if classes is None else classes[among], key)
    return among[first], among[second]


def cut(rows: Rows, share: float, settings: DataDefinition, classes: NDArray[Any] | None, key: str) -> Split:
    """Return the row numbers of both sides of a split, the second with about `share` of the rows.

    Args:
        rows: What to split.
        share: In (0, 1).
        settings: Seed, group and time.
        classes: A class for each row, whose shares are kept on both sides; None to draw at random.
        key: The study file's key to name in an error.

    Raises:
        DataError: A side would be empty, or a class too small to be on both sides.
    """
    count = len(rows)
    if not 1 <= round(count * share) < count:
        raise _too_few(key, share, count)
    if rows.time is not None:
        order = np.argsort(rows.time, kind="stable")
        at = _between_times(rows.time[order], count - round(count * share))
        if not 0 < at < count:
            raise DataError(f"data.time: one value of '{settings.time}' is in too many rows to cut at {key} = {share}")
        return order[:at], order[at:]
    if rows.group is not None:
        return _cut_groups(rows.group, share, settings)
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            np.arange(count), test_size=share, random_state=settings.seed, stratify=_strata(classes, 2, share)
        )
    except ValueError as error:
        why = one_line(error).partition(" Classes with too few members")[0]
        raise DataError(f"data.{key}: {why}; use more rows, or stratify = false") from None
    return first, second


def _between_times(times: NDArray[Any], at: int) -> int:
    """Return the place nearest to `at` where a new value begins; the ends when there is none."""
    begins = np.flatnonzero(np.diff(times)) + 1
    return int(begins[np.abs(begins - at).argmin()]) if len(begins) else 0


def _strata(classes: NDArray[Any] | None, least: int, share: float = 0.5) -> NDArray[Any] | None:
    """Return by what rows are stratified: their classes, or of several labels the rarest that a row has.

    Args:
        classes: A class for each row, of shape (rows,), or a column of 0 and 1 for each label.
        least: How many rows each stratum of labels has; smaller ones join the largest.
        share: Of the rows on the smaller side, which has a row of each stratum.
    """
    if classes is None or classes.ndim == 1:
        return classes
    strata = np.full(len(classes), -1)
    for label in np.argsort(-classes.sum(axis=0), kind="stable"):
        strata[classes[:, label] == 1] = label
    values, counts = np.unique(strata, return_counts=True)
    strata[np.isin(strata, values[counts < least])] = values[counts.argmax()]
    few = len(np.unique(strata)) > len(classes) * min(share, 1 - share)
    return None if few else strata


def cut_last(count: int, share: float) -> Split:
    """Return rows in order, the last `share` of them on the second side, as Keras's `validation_split`."""
    cut_at = int(count * (1 - share))
    if not 1 <= cut_at < count:
        raise _too_few("validation_size", share, count)
    return np.arange(cut_at), np.arange(cut_at, count)


def _cut_groups(group: NDArray[Any], share: float, settings: DataDefinition) -> Split:
    from sklearn.model_selection import GroupShuffleSplit

    if len(np.unique(group)) < 2:
        raise DataError(f"data.group: too few groups in '{settings.group}' to split; at least three are needed")
    splitter = GroupShuffleSplit(1, test_size=share, random_state=settings.seed)
    first, second = next(splitter.split(np.arange(len(group)), groups=group))
    return first, second


def folds(
    rows: Rows, settings: DataDefinition, classes: NDArray[Any] | None, *, redrawn: bool = False
) -> tuple[Split, ...]:
    """Return the row numbers (training, validation) of each fold.

    Args:
        rows: What to split.
        settings: How many folds, and their seed.
        classes: A class for each row, whose shares each fold keeps.
        redrawn: Whether groups, too, are drawn by the seed.

    Raises:
        DataError: There are fewer rows, groups or members of a class than folds.
    """
    try:
        return tuple(_folds(rows, settings, classes, redrawn=redrawn))
    except ValueError as error:
        raise DataError(f"data.folds: {one_line(error)}; use fewer folds") from None


def _folds(rows: Rows, settings: DataDefinition, classes: NDArray[Any] | None, *, redrawn: bool) -> Iterator[Split]:
    from sklearn import model_selection as ms

    count, row_numbers = settings.folds or 2, np.zeros(len(rows))
    if rows.time is not None:
        order = np.argsort(rows.time, kind="stable")
        cuts = [int(validation[0]) for _, validation in ms.TimeSeriesSplit(count).split(order)]
        cuts = [*(_between_times(rows.time[order], at) for at in cuts), len(order)]
        if sorted({0, *cuts}) != [0, *cuts]:
            raise ValueError(f"'{settings.time}' has too few values for {count} folds")
        for at, end in itertools.pairwise(cuts):
            yield order[:at], order[at:end]
    elif rows.group is not None:
        drawn = {"shuffle": True, "random_state": settings.seed} if redrawn else {}
        yield from ms.GroupKFold(count, **drawn).split(row_numbers, groups=rows.group)
    elif (classes := _strata(classes, count, 1 / count)) is not None:
        if np.unique(classes, return_counts=True)[1].min() < count:
            raise ValueError(f"a class has fewer rows than {count} folds")
        splitter = ms.StratifiedKFold(count, shuffle=True, random_state=settings.seed)
        yield from splitter.split(row_numbers, classes)
    else:
        yield from ms.KFold(count, shuffle=True, random_state=settings.seed).split(row_numbers)

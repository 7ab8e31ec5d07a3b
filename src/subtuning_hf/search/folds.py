"""
Train and validation splits of a training set, the same for every candidate and for any number of processes.

Everything depends on the arguments alone: the only source of chance is `random.Random(seed).random()`, whose sequence
Python guarantees for every version, and all ties are broken by row number. Knows rows by number, and labels and groups
as anything that can be hashed; reads no data set.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import FoldError


@dataclass(frozen=True)
class Fold:
    """
    One of the splits.

    Args:
        index (`int`): Number of the fold, from 0.
        train (`tuple[int, ...]`): Rows to train on, ascending.
        validation (`tuple[int, ...]`): Rows that score a candidate, ascending.
    """

    index: int
    train: tuple[int, ...]
    validation: tuple[int, ...]


def make_folds(
    num_rows: int,
    num_folds: int,
    seed: int,
    labels: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
    fold_ids: Sequence[Hashable] | None = None,
    stratify: bool = True,
) -> tuple[Fold, ...]:
    """
    Cut a training set into folds; each row validates exactly one of them.

    Without groups the sizes of folds differ by at most 1, and so do the counts of each label. With groups, whole groups
    are dealt, the largest first, each to where labels and sizes stay most even.

    Args:
        num_rows (`int`): Rows of the training set.
        num_folds (`int`): Number of folds, at least 2; not used with `fold_ids`.
        seed (`int`): Seed of the shuffle, 0 or more; not used with `fold_ids`.
        labels (`Sequence`, *optional*): Class of each row. Used only with `stratify`.
        groups (`Sequence`, *optional*): Group of each row (patient, document, author); none is ever split.
        fold_ids (`Sequence`, *optional*): The fold that each row validates, for folds of your own, taken as they are.
        stratify (`bool`, *optional*, defaults to `True`): Keep the shares of labels equal in all folds.

    Returns: `tuple[Fold, ...]`: with ascending rows; for `fold_ids` in ascending order of the ids.
    Raises:
        [`FoldError`]: With fewer than 2 folds, fewer rows or groups than folds, columns of another length or with
            missing values, a class that some fold could not train on, or folds of your own that split a group.
    """
    _check_numbers(num_rows, num_folds if fold_ids is None else None, seed)
    for name, column in (("labels", labels), ("groups", groups), ("fold_ids", fold_ids)):
        _check_column(name, column, num_rows)
    classes = labels if stratify else None
    if fold_ids is not None:
        fold_of, num_folds = _own_folds(fold_ids, groups)
    elif groups is not None:
        fold_of = _deal_groups(groups, classes, num_folds, seed)
    else:
        fold_of = _deal_rows(num_rows, classes, num_folds, seed)
    if classes is not None:
        _check_classes(classes, fold_of, num_folds, groups)
    return _folds(fold_of, num_folds)


def single_split(num_train: int, num_validation: int) -> tuple[Fold]:
    """
    The one fold of a validation set of the user's own.

    Args:
        num_train (`int`): Rows of the training set, all of which are trained on.
        num_validation (`int`): Rows of the validation set.

    Returns: `tuple[Fold]`: `train` numbers the rows of the training set, `validation` those of the validation set.
    Raises: [`FoldError`]: If one of the two is empty.
    """
    for name, rows in (("training", num_train), ("validation", num_validation)):
        if rows < 1:
            raise FoldError(f"The {name} set must have at least one row, found {rows}.")
    return (Fold(0, tuple(range(num_train)), tuple(range(num_validation))),)


def inner_split(
    rows: Sequence[int],
    labels: Sequence[Hashable] | None = None,
    fraction: float = 0.2,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """
    Keep some of a fold's training rows apart, for early stopping or the best checkpoint inside one training.

    Args:
        rows (`Sequence[int]`): Training rows of a fold.
        labels (`Sequence`, *optional*):
            Class of each row of the whole training set (`labels[row]`). Held rows then have the shares of all, and
            every class keeps at least one row to train on.
        fraction (`float`, *optional*, defaults to 0.2): Share of the rows to hold, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): Seed of the shuffle, 0 or more.
        groups (`Sequence`, *optional*):
            Group of each row of the whole training set. None is split then; labels are not used.

    Returns: `tuple[tuple[int, ...], tuple[int, ...]]`: rows to train on and rows held, ascending, neither empty.
    Raises: [`FoldError`]: If the fraction is out of range, or the rows cannot be divided.
    """
    if not 0 < fraction < 1:
        raise FoldError(f"`fraction` must lie between 0 and 1, found {fraction}.")
    _check_seed(seed)
    wanted = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    if groups is not None:
        held = _hold_groups(rows, groups, wanted, seed)
    else:
        held = _hold_rows(rows, labels, wanted, seed)
    if not held or len(held) == len(rows):
        units, found = ("groups", len({groups[row] for row in rows})) if groups is not None else ("rows", len(rows))
        raise FoldError(
            f"An inner split needs rows to train on and rows to hold, found {found} {units} in a fold's training part"
            f"{' that no class can spare' if labels is not None and groups is None else ''}. Use more rows or fewer "
            "folds, or train without early stopping and `load_best_model_at_end`."
        )
    return tuple(sorted(set(rows) - held)), tuple(sorted(held))


# --- dealing ---------------------------------------------------------------------------------
def _shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order that depends on the seed alone."""
    chance = random.Random(seed).random
    keys = [chance() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def _by_class(rows: Iterable[int], classes: Sequence[Hashable] | None) -> list[list[int]]:
    """Rows of each class, classes in the order of their first row number."""
    if classes is None:
        return [list(rows)]
    return sorted(_grouped(rows, classes), key=lambda members: min(members))


def _deal_rows(num_rows: int, classes: Sequence[Hashable] | None, num_folds: int, seed: int) -> list[int]:
    """Deal one class after another like cards: neighbours in a class, and in all, never land in one fold."""
    fold_of = [0] * num_rows
    dealt = 0
    for members in _by_class(_shuffled(num_rows, seed), classes):
        for row in members:
            fold_of[row] = dealt % num_folds
            dealt += 1
    return fold_of


def _deal_groups(
    groups: Sequence[Hashable], classes: Sequence[Hashable] | None, num_folds: int, seed: int
) -> list[int]:
    """Deal whole groups, the largest first, each to the fold where it adds least to the unevenness."""
    parts = _grouped(range(len(groups)), groups)
    if len(parts) < num_folds:
        raise FoldError(
            f"{num_folds} folds need at least {num_folds} groups, found {len(parts)}, and a group is never split. "
            f"Use {_fewer(len(parts))}, or leave the groups out."
        )
    labels: Sequence[Hashable] = [None] * len(groups) if classes is None else classes
    hands = _Hands(num_folds, Counter(labels))
    fold_of = [0] * len(groups)
    for part in sorted((parts[place] for place in _shuffled(len(parts), seed)), key=len, reverse=True):
        fold = hands.take(Counter(labels[row] for row in part))
        for row in part:
            fold_of[row] = fold
    return fold_of


def _grouped(rows: Iterable[int], groups: Sequence[Hashable]) -> list[list[int]]:
    members: dict[Hashable, list[int]] = {}
    for row in rows:
        members.setdefault(groups[row], []).append(row)
    return list(members.values())


class _Hands:
    """
    What each fold holds while groups are dealt.

    Unevenness is the sum of squared counts over folds: of each class, relative to the size of the class, and of all
    rows, relative to all. An empty fold always adds least, so none stays empty while groups last.
    """

    def __init__(self, num_folds: int, totals: Counter[Hashable]) -> None:
        self._totals = totals
        self._num_rows = sum(totals.values())
        self._sizes = [0] * num_folds
        self._counts: dict[Hashable, list[int]] = {label: [0] * num_folds for label in totals}

    def take(self, group: Counter[Hashable]) -> int:
        """Give a group, as counts of its classes, to a fold: its number."""
        size = sum(group.values())
        # (class ends up in this fold alone, unevenness): a fold could not train on a class that is all its own.
        costs = [(0, (2 * have + size) * size / self._num_rows) for have in self._sizes]
        for label, count in group.items():
            total = self._totals[label]
            costs = [
                (alone + (have > 0 and have + count == total), uneven + (2 * have + count) * count / total)
                for (alone, uneven), have in zip(costs, self._counts[label], strict=True)
            ]
        fold = costs.index(min(costs))
        self._sizes[fold] += size
        for label, count in group.items():
            self._counts[label][fold] += count
        return fold


def _own_folds(fold_ids: Sequence[Hashable], groups: Sequence[Hashable] | None) -> tuple[list[int], int]:
    ids = sorted(set(fold_ids), key=_order)
    if len(ids) < 2:
        raise FoldError(
            f"The fold column must tell at least 2 folds apart, found only {ids[0]!r}. To validate on a set of your "
            "own, give it as `validation_dataset`."
        )
    number = {value: place for place, value in enumerate(ids)}
    if groups is not None:
        home: dict[Hashable, Hashable] = {}
        for row, (group, value) in enumerate(zip(groups, fold_ids, strict=True)):
            if home.setdefault(group, value) != value:
                raise FoldError(
                    f"The fold column must not split a group, but puts group {group!r} into the folds {home[group]!r} "
                    f"and {value!r} (row {row}). Correct the column, or leave the groups or the column out."
                )
    return [number[value] for value in fold_ids], len(ids)


def _order(value: Hashable) -> tuple[bool, float, str]:
    """Numbers by size, then anything else by its text."""
    is_number = isinstance(value, (int, float))
    return not is_number, float(value) if isinstance(value, (int, float)) else 0.0, str(value)


def _folds(fold_of: Sequence[int], num_folds: int) -> tuple[Fold, ...]:
    numbered = list(enumerate(fold_of))
    return tuple(
        Fold(
            index,
            train=tuple([row for row, fold in numbered if fold != index]),
            validation=tuple([row for row, fold in numbered if fold == index]),
        )
        for index in range(num_folds)
    )


def _hold_rows(rows: Sequence[int], labels: Sequence[Hashable] | None, wanted: int, seed: int) -> set[int]:
    shuffled = [rows[place] for place in _shuffled(len(rows), seed)]
    # The first row of each class stays in training; of the others, every n-th is held, class after class.
    spare = [row for members in _by_class(shuffled, labels) for row in members[1:]]
    wanted = min(wanted, len(spare))
    return {row for place, row in enumerate(spare) if (place + 1) * wanted // len(spare) > place * wanted // len(spare)}


def _hold_groups(rows: Sequence[int], groups: Sequence[Hashable], wanted: int, seed: int) -> set[int]:
    parts = _grouped(rows, groups)
    held: set[int] = set()
    for place in _shuffled(len(parts), seed):
        if len(held) + len(parts[place]) <= wanted:
            held.update(parts[place])
    return held or set(min(parts, key=len, default=()))


# --- checks ----------------------------------------------------------------------------------
def _check_numbers(num_rows: int, num_folds: int | None, seed: int) -> None:
    if num_rows < 1:
        raise FoldError(f"The training set must have rows, found {num_rows}.")
    if num_folds is None:
        return
    _check_seed(seed)
    if num_folds < 2:
        raise FoldError(
            f"`num_folds` must be at least 2, found {num_folds}. To validate on a set of your own, give it as "
            "`validation_dataset`."
        )
    if num_rows < num_folds:
        raise FoldError(f"{num_folds} folds need at least {num_folds} rows, found {num_rows}. Use {_fewer(num_rows)}.")


def _check_seed(seed: int) -> None:
    # Python takes the absolute value of an int and the hash of anything else: two seeds could then mean the same.
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise FoldError(f"The seed of the folds must be a whole number of 0 or more, found {seed!r}.")


def _fewer(most: int) -> str:
    return f"`num_folds={most}` or fewer" if most >= 2 else "more data"


def _check_column(name: str, column: Sequence[Hashable] | None, num_rows: int) -> None:
    if column is None:
        return
    if len(column) != num_rows:
        raise FoldError(f"`{name}` must have one value for each of the {num_rows} rows, found {len(column)}.")
    for row, value in enumerate(column):
        try:
            hash(value)
        except TypeError:
            raise FoldError(
                f"`{name}` must have one value for each row, found {type(value).__name__} {value!r} in row {row}."
            ) from None
        if value is None or value != value:  # the latter is NaN
            raise FoldError(f"`{name}` must have a value for each row, found {value!r} in row {row}.")


def _check_classes(
    classes: Sequence[Hashable], fold_of: Sequence[int], num_folds: int, groups: Sequence[Hashable] | None
) -> None:
    """Every fold must train on every class; that a class is not validated everywhere is worth a warning."""
    per_class: dict[Hashable, dict[int, int]] = {}
    for (label, fold), count in Counter(zip(classes, fold_of, strict=True)).items():
        per_class.setdefault(label, {})[fold] = count
    for label, folds in per_class.items():
        if len(folds) == 1:
            (fold, count), *_ = folds.items()
            where = ""
            if groups is not None:
                inside = {group for group, found in zip(groups, classes, strict=True) if found == label}
                where = f", in {len(inside)} {'group' if len(inside) == 1 else 'groups'}"
            rows = f"has {count} {'row' if count == 1 else 'rows'}{where}"
            raise FoldError(
                f"Every fold must train on every class, but class {label!r} {rows}, and all validate fold {fold}, "
                "which cannot train on it. Add rows of that class, merge it with another, use fewer folds, or give "
                "`stratify=False` to let folds be as they come."
            )
    absent = {label: sum(folds.values()) for label, folds in per_class.items() if len(folds) < num_folds}
    if absent:
        shown = ", ".join(f"{label!r} ({count} rows)" for label, count in list(absent.items())[:5])
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        warnings.warn(
            f"Some of the {num_folds} folds validate no row of class {shown}{more}. Scores do not see such a class "
            "there; fewer folds or more rows would help.",
            UserWarning,
            stacklevel=3,
        )

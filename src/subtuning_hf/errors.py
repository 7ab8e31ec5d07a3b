"""
Errors of the package.

Every error is a [`SubTuningError`] and also the builtin it specialises, so that both
`except SubTuningError` and `except ValueError` work. A message says what was expected, what was
found and what to do about it. This module imports nothing.
"""

INSTALL = "pip install ."  # the one place that says so


def how_to_install(extra: str = "") -> str:
    """
    The command that installs this package, in words: it is in no registry, so from a checkout.

    Args:
        extra (`str`, *optional*): An extra of `setup.cfg`, such as `"plots"`.

    Returns: `str`: such as ``"`pip install '.[plots]'` in a checkout of subtuning-hf"``.
    """
    command = INSTALL.removesuffix(".") + f"'.[{extra}]'" if extra else INSTALL
    return f"`{command}` in a checkout of subtuning-hf"


class SubTuningError(Exception):
    """Base of every error this package raises on purpose."""

    def __str__(self) -> str:
        # KeyError shows repr(message); a message that explains something must stay readable.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


# --- blocks and selections -------------------------------------------------------------------
class BlockSelectionError(SubTuningError, ValueError):
    """The blocks asked for cannot be used as a selection."""


class UnknownBlockError(BlockSelectionError):
    """A name, index or pattern fits no module of the model."""


class DuplicateBlockError(BlockSelectionError):
    """The same block is named twice."""


class NestedBlocksError(BlockSelectionError):
    """One chosen block lies inside another."""


class EmptySelectionError(BlockSelectionError):
    """Nothing would be trained: no block and no head."""


class NoBlocksFoundError(SubTuningError, ValueError):
    """The rules find no choosable blocks in a model; blocks must be named explicitly."""


# --- adapters --------------------------------------------------------------------------------
class AdapterNameError(SubTuningError, ValueError):
    """An adapter's name collides with a name inside the model, or is taken."""


class AdapterMismatchError(SubTuningError, ValueError):
    """An adapter was made for another base model."""


class DownloadError(SubTuningError, ConnectionError):
    """A file on the Hub could not be had whole."""


class AdapterFileError(SubTuningError, ValueError):
    """An adapter's files are damaged, foreign, or hold something that does not belong there."""


# --- data ------------------------------------------------------------------------------------
class DataError(SubTuningError, ValueError):
    """A data set cannot be used as it stands."""


class FoldError(DataError):
    """Folds cannot be cut as asked."""


# --- the study -------------------------------------------------------------------------------
class ArgumentsError(SubTuningError, ValueError):
    """Arguments that contradict each other or mean nothing here."""


class MetricNotFoundError(SubTuningError, KeyError):
    """`metric_for_best_model` names a metric that an evaluation does not return."""


class NonFiniteScoreError(SubTuningError, ArithmeticError):
    """A training loss or a score is NaN or infinite."""


class IncompleteRoundError(SubTuningError, RuntimeError):
    """A decision was asked for before all its evaluations are there."""


class StudyMismatchError(SubTuningError, ValueError):
    """The journal in `output_dir` belongs to a study of another base, data set or setting."""


class JournalError(SubTuningError, OSError):
    """The journal cannot be read or written."""


class JournalCorruptError(JournalError):
    """A line of the journal that is not the torn last one cannot be read."""


class JournalVersionError(JournalError):
    """The journal was written by a newer version of the package."""


class JournalBusyError(JournalError):
    """Another process writes to this journal."""


class RecipeError(SubTuningError, ValueError):
    """A recipe holds an unknown key, a wrong type or a missing file."""


# --- the command line ------------------------------------------------------------------------
class ModelNotFoundError(SubTuningError, OSError):
    """A name leads to no model and to no configuration of one."""


class MissingDependencyError(SubTuningError, ImportError):
    """Something optional that a command needs is not installed."""


# --- several processes -----------------------------------------------------------------------
class PeerFailedError(SubTuningError, RuntimeError):
    """Another process of the launch ended with an error, so this one ends too."""


class PeerLostError(SubTuningError, ConnectionError):
    """Another process of the launch no longer answers."""


# --- stored inputs of blocks -----------------------------------------------------------------
class PrefixCacheError(SubTuningError, RuntimeError):
    """The stored inputs of blocks cannot be made, kept or used as asked."""


# --- many tasks on one trunk -----------------------------------------------------------------
class MultiTaskError(SubTuningError, ValueError):
    """Tasks, rows or inputs that a model of several tasks cannot answer."""

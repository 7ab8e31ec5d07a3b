"""Names of adapters as users write them: a folder, or `user/adapter`, or `user/adapter@revision`. Loads nothing."""

from __future__ import annotations

import os

from ..errors import ArgumentsError


def split_revision(word: str | os.PathLike[str], revision: str | None = None) -> tuple[str, str | None]:
    """
    Tell a name and its revision apart.

    Args:
        word (`str` or `os.PathLike`): Folder or Hub name, the latter with `@revision` if need be.
        revision (`str`, *optional*): A revision that was given beside it.

    Returns: `tuple[str, str | None]`: the name, and the branch, tag or commit.
    Raises: [`ArgumentsError`]: If there are two revisions, or a part is missing. A folder that exists keeps its `@`.
    """
    word = os.fspath(word)
    name, mark, said = word.partition("@")
    if not mark or os.path.exists(word):
        return word, revision
    if not (name and said):
        raise ArgumentsError(f"'{word}' is no folder, and no adapter with its revision. Write user/adapter@revision.")
    if revision is not None and said != revision:
        raise ArgumentsError(f"'{word}' names the revision '{said}', `revision` says '{revision}'. Give one of them.")
    if os.path.isdir(name):
        raise ArgumentsError(f"'{name}' is a folder, which has no revisions. Leave '@{said}' out.")
    return name, said

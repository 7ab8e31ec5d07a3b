"""What the server refuses."""

from __future__ import annotations

from subtuning_hf.errors import SubTuningError


class ServeError(SubTuningError, ValueError):
    """
    A request that is not answered, with the HTTP status that says so.

    Args:
        message (`str`): What was expected, what was found, and the way out.
        status (`int`, *optional*, defaults to 400): HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

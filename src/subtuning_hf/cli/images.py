"""
Pictures as files hold them to what image processors take: upright, three channels of 8 bits.

Knows Pillow's modes; does not know processors or models.
"""

from __future__ import annotations

from typing import Any

from ..errors import DataError

_DEEP = 65_535  # white, in 16 bits


def as_rgb(image: Any) -> Any:
    """
    A picture in RGB, turned as its EXIF data say. One that is in RGB and upright comes out equal.

    Pillow cuts off what is above 255, so that a picture of 16 bits would become white: its values are divided by 257.

    Args:
        image (`PIL.Image.Image`): In any mode. `I;16` holds 16 bits; `I` does if a value is above 255.

    Returns: `PIL.Image.Image`
    Raises: [`DataError`]: If values of the modes `I` or `F` lie beyond, so that nothing says what is white.
    """
    import numpy as np
    from PIL import Image, ImageOps

    file = getattr(image, "filename", "")  # the turned one has none
    image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode not in ("I", "F") and not mode.startswith("I;16"):
        return image.convert("RGB")
    values = np.asarray(image)
    low, high = values.min(), values.max()  # NaN if there is one, which lies in no range
    small = mode in ("I", "F") and low >= 0 and high <= 255
    if not small and (mode == "F" or not (low >= 0 and high <= _DEEP)):
        raise DataError(
            f"Expected a picture with values from 0 to 255, or whole numbers from 0 to {_DEEP:,}, found {low:g} to "
            f"{high:g} in mode {mode}{f' in {str(file)!r}' if file else ''}. Scale them, and save it in 8 bits."
        )
    if small:
        return image.convert("RGB")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")

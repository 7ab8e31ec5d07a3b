"""
Pictures as files hold them to what image processors take: upright, three channels of 8 bits.

Knows Pillow's modes; does not know processors or models.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_DEEP = 65_535  # white, in 16 bits
_BATCH, _LISTED = 256, 5
_MOST = 50_000  # rows that are looked at: of millions it would take long, and one broken among them is soon met


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


def check_images(rows: Dataset, column: str, split: str) -> None:
    """
    Read every picture once, of at most 50,000 rows, so that a broken file is named before hours of work, not after.

    Args:
        rows (`datasets.Dataset`): The rows.
        column (`str`): Of images.
        split (`str`): What the rows are called.

    Raises: [`DataError`]: If some pictures cannot be read, with the first of them.
    """
    from datasets import Image
    from tqdm.auto import tqdm

    rows = rows.select(range(min(len(rows), _MOST)))
    stored = rows.with_format(None).select_columns([column]).cast_column(column, Image(decode=False))
    look = partial(_fault, rows.features[column])
    faults: list[str] = []
    with (
        ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        tqdm(total=len(rows), desc=f"reading {split} images", delay=5, leave=False) as bar,
    ):
        for first, batch in enumerate(stored.iter(batch_size=_BATCH)):
            for place, fault in enumerate(pool.map(look, batch[column])):
                if fault is not None:
                    faults.append(f"{fault[0] or f'row {first * _BATCH + place}'} ({fault[1]})")
            bar.update(len(batch[column]))
    if faults:
        more = f" and {len(faults) - _LISTED:,} more" if len(faults) > _LISTED else ""
        raise DataError(
            f"data.image_column: of the {len(rows):,} {split} rows {len(faults):,} have no picture in '{column}' that "
            f"can be read: {', '.join(faults[:_LISTED])}{more}. Mend them or take them out."
        )


def _fault(feature: Any, stored: dict[str, Any] | None) -> tuple[str, str] | None:
    """The file of a picture, if that is known, and why it cannot be read; `None` if it can."""
    from PIL import Image

    if stored is None:
        return "", "there is none"
    file = stored.get("path") or ""
    try:
        as_rgb(feature.decode_example(stored))
    except Image.UnidentifiedImageError:
        return file, "nothing that Pillow knows"
    except (DataError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return file, str(error).rstrip(".")
    return None

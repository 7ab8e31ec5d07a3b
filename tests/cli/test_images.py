"""Pictures of more than 8 bits keep their shades, turned ones stand upright, and others come out as Pillow has them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from subtuning_hf.cli.images import as_rgb
from subtuning_hf.cli.predict_inputs import read_inputs
from subtuning_hf.cli.recipe_inputs import ToInputs
from subtuning_hf.errors import DataError

GREYS = np.arange(240, dtype=np.uint8).reshape(12, 20)
TYPES = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
ORIENTATION = 0x0112


def grey(mode, values):
    """A picture in a mode."""
    image = Image.fromarray(np.asarray(values).astype(TYPES[mode]))
    assert image.mode == mode
    return image


def stored(image, kind, **settings):
    """The same from a file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return Image.open(file)


def turned(orientation, size=(6, 4)):
    """A picture that its EXIF data turn."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return stored(Image.fromarray(pixels), "PNG", exif=exif)


def same(image, wanted):
    """Whether two pictures are one."""
    return image.mode == wanted.mode == "RGB" and image.size == wanted.size and image.tobytes() == wanted.tobytes()


# --- shades ---------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bits_become_the_8_bits_that_they_stand_for(mode):
    wanted = Image.fromarray(GREYS).convert("RGB")
    assert same(as_rgb(grey(mode, GREYS.astype(int) * 257)), wanted)
    assert same(as_rgb(grey(mode, GREYS.astype(int) * 257 + np.where(GREYS, -128, 128))), wanted)  # the nearest
    white = grey(mode, np.full((2, 2), 65_535))
    assert as_rgb(white).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_files_of_16_bits(kind):
    image = stored(grey("I;16", GREYS.astype(int) * 257), kind)
    assert same(as_rgb(image), Image.fromarray(GREYS).convert("RGB"))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_small_values_are_taken_as_they_are(mode):
    assert same(as_rgb(grey(mode, GREYS)), Image.fromarray(GREYS).convert("RGB"))


def test_dark_pictures_of_16_bits_stay_dark():
    assert as_rgb(grey("I;16", [[200, 255]])).getpixel((1, 0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("mode", "values", "found"),
    [
        ("I", [[0, 65_536]], "found 0 to 65536 in mode I"),
        ("I", [[-1, 9]], "found -1 to 9 in mode I"),
        ("F", [[0, 255.5]], "found 0 to 255.5 in mode F"),
        ("F", [[-0.5, 1]], "found -0.5 to 1 in mode F"),
        ("F", [[0, float("nan")]], "found nan to nan in mode F"),
        ("F", [[0, float("inf")]], "found 0 to inf in mode F"),
    ],
)
def test_values_of_which_nobody_knows_what_is_white_are_refused(mode, values, found):
    with pytest.raises(DataError, match=f"^Expected a picture with values from 0 to 255.*{found}. Scale them"):
        as_rgb(grey(mode, values))


def test_the_refusal_names_the_file(tmp_path):
    grey("F", [[-1.0, 1.0]]).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"in '.*a\.tif'"), Image.open(tmp_path / "a.tif") as image:
        as_rgb(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_as_pillow_has_them(mode):
    image = turned(1).convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10))
    image = image.convert("RGB").convert(mode) if mode not in ("LA", "PA", "RGBA") else image.convert(mode)
    assert image.mode == mode and same(as_rgb(image), image.convert("RGB"))


# --- turned ---------------------------------------------------------------------------------
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_stand_upright_once(orientation):
    upright = as_rgb(turned(orientation))
    assert same(upright, ImageOps.exif_transpose(turned(orientation)))
    assert same(as_rgb(upright), upright)


def test_turned_pictures_of_16_bits():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = stored(grey("I;16", GREYS.astype(int) * 257), "PNG", exif=exif)
    assert same(as_rgb(image), Image.fromarray(np.rot90(GREYS, -1)).convert("RGB"))


# --- where rows become inputs ---------------------------------------------------------------
def pixels(images):
    """What a processor is given."""
    given = []

    def processor(found, return_tensors):
        given.extend(found)
        return {"pixel_values": [0] * len(found)}

    ToInputs(processor, "image", "label", "none")({"image": images})
    return given


def test_inputs_of_training_and_prediction_go_through_it(tmp_path):
    grey("I;16", GREYS.astype(int) * 257).save(tmp_path / "a.png")
    turned(6).save(tmp_path / "b.png", exif=turned(6).getexif())
    deep, upright = pixels(read_inputs([str(tmp_path)], text=False).rows["image"])
    assert same(deep, Image.fromarray(GREYS).convert("RGB"))
    assert same(upright, as_rgb(turned(6))) and upright.size == (4, 6)

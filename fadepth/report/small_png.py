"""PNG files that are small enough for a page: all colours where they fit, else 256 of them."""

from io import BytesIO

from PIL import Image

#: Of a picture in docs/.
LIMIT = 300_000


def small_png(image: Image.Image, limit: int = LIMIT) -> bytes:
    """Write a picture as PNG of at most `limit` bytes where that is possible.

    A palette of an octree, with dithering: Pillow's default, median cut, turns a red car purple
    where a map of depth has most of the pixels.
    """
    whole = _png(image.convert("RGB"))
    if len(whole) <= limit:
        return whole
    colours = image.convert("RGB")
    palette = colours.quantize(256, method=Image.Quantize.FASTOCTREE)
    return _png(colours.quantize(256, palette=palette, dither=Image.Dither.FLOYDSTEINBERG))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

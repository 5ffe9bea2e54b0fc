"""The sentences that refuse an image file."""

from ..errors import ImageError


def cut_off(name: str) -> ImageError:
    return ImageError(f"{name}: is cut off; copy or download it again")


def undecodable(name: str, form: str) -> ImageError:
    """For what a decoder rejects without a reason that its reader could use."""
    return ImageError(
        f"{name}: is a damaged {form} image, cut off, or of a kind of {form} that cannot be decoded; "
        "copy it again, or save it as 8-bit PNG"
    )


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse what a header declares, before any memory is taken for it.

    Raises:
        ImageError: no pixels, or more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name}: declares {width} x {height} pixels, so has none; save it again")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: declares {width} x {height} pixels, more than the limit of {max_pixels}; "
            "raise max_pixels in the engine's options"
        )

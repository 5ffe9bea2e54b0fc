"""Photos of many kinds, made on the fly of one photo."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from common import PHOTOS, SAMPLES

ORIENTATION = 0x0112


def write_kinds(folder: Path) -> list[Path]:
    """Write them into a folder, and the photos of the repository."""
    photo = Image.open(PHOTOS / "buddha_a.jpg").convert("RGB")
    saved: list[Path] = []

    def save(name: str, image: Image.Image, **options: object) -> None:
        image.save(folder / name, **options)
        saved.append(folder / name)

    def exif(orientation: int) -> Image.Exif:
        block = Image.Exif()
        block[ORIENTATION] = orientation
        return block

    save("grey.jpg", photo.convert("L"), quality=90)
    save("progressive.jpg", photo, progressive=True)
    save("full_chroma.jpg", photo, subsampling=0, quality=95)
    save("profile.jpg", photo, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    for orientation in range(2, 9):
        save(f"turned_{orientation}.jpg", photo, exif=exif(orientation))
        save(f"turned_{orientation}.webp", photo.resize((200, 100)), exif=exif(orientation), lossless=True)
        save(f"turned_{orientation}.png", photo.resize((200, 100)), exif=exif(orientation))
    save("lossy.webp", photo)
    save("plain.png", photo)
    save("palette.png", photo.quantize(64))
    save("grey.png", photo.convert("L"))
    clear = photo.resize((300, 200)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    save("translucent.png", clear)
    save("translucent.webp", clear)
    save("translucent_turned.png", clear, exif=exif(6))
    save("translucent_turned.webp", clear, exif=exif(8))
    save("translucent_grey.png", clear.convert("LA"))
    save("transparent_colour.png", photo.quantize(64), transparency=3)
    save("deep.png", Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257))
    save("bitmap.bmp", photo.resize((90, 70)))
    save("tall.png", photo.resize((40, 900)))
    save("wide.png", photo.resize((1200, 50)))
    save("very_wide.png", photo.resize((20000, 30)))
    save("tiny.png", photo.resize((5, 3)))
    save("twice.png", photo.resize((448, 448)))
    save("same.png", photo.resize((224, 224)))
    save("12_megapixels.jpg", photo.resize((4000, 3000), Image.Resampling.BICUBIC))
    for path in (*PHOTOS.glob("*.jpg"), *SAMPLES.glob("*.jpg"), *SAMPLES.glob("*.png")):
        saved.append(Path(shutil.copy(path, folder / path.name)))
    return saved

"""Photos of every kind people bring: real files, made here, and the real photos where they are at hand."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageCms, ImageEnhance, ImageFilter

from apt_engine.errors import PhotoError
from apt_engine.photos.photo_set import (
    BLUR_LIMIT,
    Photo,
    PhotoSet,
    photos_in,
    read_photo,
    read_photos,
    sharpness,
    square_box,
)

REAL_PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "photos"
with_real_photos = pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="the real photos are not beside this checkout")


def picture(width: int = 120, height: int = 100, seed: int = 0) -> Image.Image:
    """Coarse colored noise: sharp, and different for each seed."""
    values = numpy.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=numpy.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    image.save(folder / name, **options)  # pyright: ignore[reportArgumentType]
    return folder / name


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pixels(path: Path) -> numpy.ndarray:
    return numpy.asarray(read_photo(path).image, dtype=float)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tiff", "a.avif", "a.jpg"])
def test_formats_decode_to_the_same_picture(tmp_path: Path, name: str) -> None:
    photo = read_photo(saved(tmp_path, name, picture(), quality=95))
    assert photo.image.mode == "RGB"
    assert numpy.abs(numpy.asarray(photo.image, dtype=float) - numpy.asarray(picture(), dtype=float)).mean() < 12


def test_the_cameras_turn_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture().transpose(Image.Transpose.ROTATE_90)
    assert (pixels(saved(tmp_path, "a.png", turned, exif=exif)) == numpy.asarray(picture())).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_gray(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (80, 80), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 40, 80))
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        image = Image.new("P", (80, 80), 0)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.paste(1, (0, 0, 40, 80))
    values = pixels(saved(tmp_path, "a.png", image.convert(mode) if mode != "P" else image, **options))
    assert values[40, 60].tolist() == [128, 128, 128]
    assert values[40, 20].tolist() != [128, 128, 128]


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    ramp = numpy.tile(numpy.arange(256, dtype=numpy.uint16) * 257, (100, 1))
    for name in ("a.png", "a.tiff"):
        assert (pixels(saved(tmp_path, name, Image.fromarray(ramp)))[0, :, 0] == numpy.arange(256)).all()
    dark = Image.fromarray(numpy.full((80, 80), 200, dtype=numpy.uint16))
    assert pixels(saved(tmp_path, "dark.png", dark)).max() == 0


def test_sixteen_bits_a_color_keep_their_colors(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32896, 0) * 80 for _ in range(80))
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 80, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    assert pixels(tmp_path / "a.png")[40, 40].tolist() == [255, 128, 0]


@pytest.mark.parametrize(("peak", "mode"), [(1.0, "F"), (255.0, "F"), (65535, "I"), (1_000_000, "I")])
def test_thirty_two_bits_are_scaled_by_what_they_hold(tmp_path: Path, peak: float, mode: str) -> None:
    ramp = numpy.tile(numpy.linspace(0, peak, 256), (100, 1)).astype(numpy.float32 if mode == "F" else numpy.int32)
    values = pixels(saved(tmp_path, "a.tiff", Image.fromarray(ramp)))
    assert numpy.abs(values[0, :, 0] - numpy.arange(256)).max() <= 1


def test_cmyk_and_gray_become_rgb(tmp_path: Path) -> None:
    red = Image.new("CMYK", (80, 80), (0, 255, 255, 0))
    assert numpy.abs(pixels(saved(tmp_path, "a.jpg", red, quality=95))[40, 40] - [255, 0, 0]).max() < 12
    assert pixels(saved(tmp_path, "b.png", Image.new("L", (80, 80), 77)))[0, 0].tolist() == [77, 77, 77]


def test_a_color_profile_is_applied_and_a_broken_one_passed_over(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = pixels(saved(tmp_path, "a.png", picture()))
    assert numpy.abs(pixels(saved(tmp_path, "b.png", picture(), icc_profile=profile)) - plain).max() <= 2
    assert (pixels(saved(tmp_path, "c.png", picture(), icc_profile=b"nonsense")) == plain).all()


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.webp", picture(seed=1), save_all=True, append_images=[picture(seed=2)], lossless=True)
    assert numpy.abs(pixels(path) - numpy.asarray(picture(seed=1), dtype=float)).mean() < 2


def test_large_photos_are_reduced(tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path, "a.jpg", Image.new("RGB", (5000, 2500), "red")))
    assert photo.image.size == (2048, 1024)


def bomb(folder: Path, side: int = 9000) -> Path:
    """A PNG of a few kilobytes that claims to be huge, 81 megapixels unless told otherwise."""

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(b"\0" * 9_000_000, 9)
    path = folder / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    return path


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.jpg"
    whole = saved(folder, "whole.jpg", picture(600, 600)).read_bytes()
    path.write_bytes({"text": b"no picture at all", "empty": b"", "truncated": whole[: len(whole) // 2]}[kind])
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_what_is_no_picture_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(PhotoError, match=rf"Photo {kind}\.jpg cannot be opened.*convert it to JPEG or PNG"):
        read_photo(broken(tmp_path, kind))


def test_a_small_file_that_claims_81_megapixels_is_not_decoded(tmp_path: Path) -> None:
    assert bomb(tmp_path).stat().st_size < 20_000
    with pytest.raises(PhotoError, match=r"Photo bomb\.png has 81 megapixels; make it smaller"):
        read_photo(bomb(tmp_path))


def test_how_large_a_picture_is_costs_no_word_more_than_the_sentence(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(PhotoError, match=r"bomb\.png has 100 megapixels"):
            read_photo(bomb(tmp_path, side=10_000))
        with pytest.raises(PhotoError, match=r"bomb\.png has far too many pixels"):
            read_photo(bomb(tmp_path, side=20_000))
    assert said == []


@pytest.mark.parametrize("exif", [b"Exif\0\0no such thing", b"Exif\0\0MM"])
def test_damaged_metadata_is_passed_over(tmp_path: Path, exif: bytes) -> None:
    assert (pixels(saved(tmp_path, "a.png", picture(), exif=exif)) == numpy.asarray(picture())).all()


def test_a_damaged_avif_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.avif", picture())
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + b"\xff" * 16 + content[start + 16 :])
    with pytest.raises(PhotoError, match=r"a\.avif cannot be opened"):
        read_photo(path)


def test_a_picture_of_another_kind_is_not_opened_whatever_its_ending(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", format="EPS")  # Pillow would start Ghostscript for it
    with pytest.raises(PhotoError, match=r"a\.jpg cannot be opened"):
        read_photo(tmp_path / "a.jpg")


def test_tiny_pictures_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"a\.png is too small \(32 x 32 pixels\)"):
        read_photo(saved(tmp_path, "a.png", Image.new("RGB", (32, 32))))
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(PhotoError, match=r"folder\.jpg cannot be opened"):
        read_photo(tmp_path / "folder.jpg")


def test_good_photos_stay_when_others_are_bad(tmp_path: Path) -> None:
    good = [saved(tmp_path, f"{seed}.png", picture(seed=seed)) for seed in range(3)]
    found = read_photos([good[0], broken(tmp_path, "text"), *good[1:], tmp_path / "gone.jpg"])
    assert [photo.name for photo in found.photos] == ["0.png", "1.png", "2.png"]
    assert len(found.problems) == 2
    found.check("{subject}")


def set_of(folder: Path, count: int) -> PhotoSet:
    return read_photos([saved(folder, f"{seed}.png", picture(seed=seed)) for seed in range(count)])


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "There are no photos; add 3 to 10"),
        (1, "One photo is too few"),
        (60, "60 photos are too many; choose the 3"),
    ],
)
def test_a_set_that_cannot_be_trained_on_is_refused(tmp_path: Path, count: int, words: str) -> None:
    with pytest.raises(PhotoError, match=words):
        set_of(tmp_path, count).check("{subject}")


def test_a_set_that_could_be_better_is_warned_of(tmp_path: Path) -> None:
    assert set_of(tmp_path, 5).warnings == ()
    assert set_of(tmp_path, 2).warnings == ("Only 2 photos; 3 to 10 work better.",)
    crowd = read_photos([tmp_path / "0.png"] * 31)
    assert crowd.photos == ()  # so many are not even decoded
    assert "12 photos are many" in set_of(tmp_path, 12).warnings[0]
    brighter = ImageEnhance.Brightness(picture(seed=1)).enhance(1.02)
    saved(tmp_path, "twin.jpg", brighter, quality=80)
    found = read_photos([tmp_path / name for name in ("0.png", "1.png", "2.png", "twin.jpg")])
    assert found.warnings == ("Photos 1.png and twin.jpg look alike; leave one out.",)
    saved(tmp_path, "soft.png", picture(seed=3).filter(ImageFilter.GaussianBlur(8)))
    assert read_photo(tmp_path / "soft.png").warnings == ("Photo soft.png is a little blurred.",)


@pytest.mark.parametrize("place", [0, 100, 200])
@pytest.mark.parametrize("is_tall", [False, True])
def test_the_crop_follows_the_subject(place: int, is_tall: bool) -> None:
    image = Image.new("RGB", (400, 200), "khaki")
    image.paste((200, 0, 0), (place + 20, 30, place + 180, 170))
    if is_tall:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    box = square_box(image)
    assert (box[2] - box[0], box[3] - box[1]) == (200, 200)
    assert abs((box[1] if is_tall else box[0]) - place) <= 60


def test_photos_smaller_than_the_training_size_are_named(tmp_path: Path) -> None:
    photos = set_of(tmp_path, 3)
    assert photos.smaller_than(100) == ()
    assert photos.smaller_than(512)[0] == "Photo 0.png is small (100 px); 512 px or more are better."
    wide = PhotoSet((Photo("wide.png", picture(1216, 832)),))
    assert wide.smaller_than(1024)[0] == "Photo wide.png is small (832 px); 1024 px or more are better."
    assert wide.smaller_than(1024, "buckets") == ()


def test_squares_and_plain_surfaces_are_cropped_to_the_middle() -> None:
    assert square_box(picture(100, 100)) == (0, 0, 100, 100)
    assert square_box(Image.new("RGB", (300, 100), "white")) == (100, 0, 200, 100)


def test_saved_photos_are_squares_of_the_wanted_size(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    set_of(tmp_path, 3).save(tmp_path / "out", 64)
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == ["01.png", "02.png", "03.png", "originals"]
    for path in paths[:3]:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")


def test_a_folder_is_listed_by_name_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in photos_in(tmp_path)] == ["a.png", "b.JPG"]
    with pytest.raises(PhotoError, match="There is no folder"):
        photos_in(tmp_path / "gone")


@with_real_photos
def test_the_real_photos_raise_no_warning() -> None:
    for folder in (path for path in REAL_PHOTOS.iterdir() if path.is_dir()):
        found = read_photos(photos_in(folder))
        assert found.problems == ()
        assert found.warnings == ()
        softest = min(sharpness(photo.image) for photo in found.photos)
        blurred = max(sharpness(photo.image.filter(ImageFilter.GaussianBlur(4))) for photo in found.photos)
        assert blurred < BLUR_LIMIT
        assert softest > 4 * BLUR_LIMIT


@with_real_photos
def test_a_real_photo_made_brighter_or_smaller_is_a_twin() -> None:
    photo = read_photo(REAL_PHOTOS / "duck_toy" / "03.jpg")
    changed = (photo.image.reduce(2), ImageEnhance.Brightness(photo.image).enhance(0.8))
    for image in changed:
        assert "and twin look alike" in PhotoSet((photo, Photo("twin", image))).warnings[1]


# The subject's place along the longer side of a strip of a real photo, in parts of the photo: where the strip lies
# (left, top, right, bottom), then the first and the last bit of the subject. Measured by eye; the middle would cut each.
STRIPS = [
    ("monster_toy/03.jpg", (0.3, 0.25, 1.0, 0.75), 0.34, 0.74),
    ("rc_car/04.jpg", (0.3, 0.2, 1.0, 0.7), 0.35, 0.68),
    ("duck_toy/02.jpg", (0.2, 0.25, 0.75, 1.0), 0.29, 0.73),
]


@with_real_photos
@pytest.mark.parametrize(("name", "strip", "first", "last"), STRIPS)
def test_real_subjects_are_inside_the_crop(
    name: str, strip: tuple[float, float, float, float], first: float, last: float
) -> None:
    photo = read_photo(REAL_PHOTOS / name).image
    left, top, right, bottom = (round(part * photo.width) for part in strip)
    box = square_box(photo.crop((left, top, right, bottom)))
    is_wide = right - left > bottom - top
    start, end = (left + box[0], left + box[2]) if is_wide else (top + box[1], top + box[3])
    assert start / photo.width < first + 0.03
    assert end / photo.width > last - 0.03

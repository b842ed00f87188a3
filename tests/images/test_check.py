"""Files that are cut off, damaged, hostile or no images: one message with the cure, a clean terminal."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from hasn_edge.errors import InputError, MissingDependencyError
from hasn_edge.images import codec

RGB = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def _encoded(image, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def _read(tmp_path, data, name="image.png"):
    path = tmp_path / name
    path.write_bytes(data)
    pixels = codec.read_image(path)
    assert codec.read_image_size(path) == pixels.shape[:2]
    return pixels


def _png(header, *datas, name=b"IDAT", end=True):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header)), *((name, data) for data in datas)]
    chunks += [(b"IEND", b"")] if end else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
WHOLE = {
    "a.png": _encoded(NOISE, "PNG"),
    "a.jpg": _encoded(NOISE, "JPEG"),
    "p.jpg": _encoded(NOISE, "JPEG", progressive=True),
    "a.webp": _encoded(NOISE, "WEBP"),
    "l.webp": _encoded(NOISE, "WEBP", lossless=True),
    "a.bmp": _encoded(NOISE, "BMP"),
    "a.gif": _encoded(NOISE, "GIF"),
    "a.tif": _encoded(NOISE, "TIFF"),
    "z.tif": _encoded(NOISE, "TIFF", compression="tiff_lzw"),
}


def _cut(data):
    """Lengths to cut a file to: all short ones, then a sample, and all but the last bytes."""
    return sorted({*range(1, 64), *range(64, len(data) - 4, max(1, len(data) // 40)), len(data) - 4})


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_off_anywhere_is_refused_and_the_terminal_stays_clean(tmp_path, capfd, name):
    data = WHOLE[name]
    assert _read(tmp_path, data, name).shape == NOISE.shape
    for length in _cut(data):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(InputError, match=name) as caught:
            codec.read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        if length > 100:
            assert "ends early" in str(caught.value)
            assert "get the file again" in str(caught.value)
    assert capfd.readouterr() == ("", "")


# Plain pixels (BMP, TIFF) may well be zero, and WebP has neither checksum nor end mark.
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "p.jpg", "z.tif"])
def test_zeros_instead_of_the_second_half_are_noticed(tmp_path, capfd, name):
    data = WHOLE[name]
    (tmp_path / name).write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    with pytest.raises(InputError, match=name):
        codec.read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.png", b"", "empty.png: the file is empty; .* get the file again"),
        (
            "notes.png",
            b"this is a note\n" * 9,
            "notes.png: not an image .* text; save it as PNG, JPEG, WebP",
        ),
        ("cut.gif", _encoded(RGB, "GIF")[:300], "ends early|damaged"),
        ("doc.png", b"%PDF-1.7\n\xff\xfe", "a PDF"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0heic", "a HEIC, AVIF or video"),
        ("pointer.png", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("blob.png", bytes(range(128, 228)), "none of the formats known"),
        ("one.png", b"\x89", "none of the formats known"),
        ("bits.png", _png((4, 4, 3, 2, 0, 0, 0), b""), "colour type 2, 3 bits"),
        ("zero.png", _png((0, 4, 8, 2, 0, 0, 0), b""), "0 x 4 pixels"),
        ("noend.png", _png((4, 4, 8, 0, 0, 0, 0), zlib.compress(bytes(20)), end=False), "ends early"),
        ("short.png", _png((4, 4, 8, 0, 0, 0, 0), zlib.compress(bytes(15))), "pixel data for 15 of 20 bytes"),
        ("none.png", _png((4, 4, 8, 0, 0, 0, 0)), "pixel data for 0 of 20 bytes"),
        ("deflate.png", _png((4, 4, 8, 0, 0, 0, 0), b"\x78\x9cgarbage!"), "does not decompress"),
        ("filter.png", _png((4, 4, 8, 0, 0, 0, 0), zlib.compress(b"\x09" + bytes(19))), "damaged"),
        ("palette.png", _png((4, 4, 8, 3, 0, 0, 0), zlib.compress(bytes(20))), "palette is missing"),
        ("scan.jpg", b"\xff\xd8\xff\xd9", "scan.jpg: the file ends early"),
        ("soi.jpg", b"\xff\xd8\xff\xe0\0\0", "soi.jpg: the file ends early"),
        (
            "riff.webp",
            b"RIFF\x0c\0\0\0WEBPABCD\0\0\0\0",
            "a kind of WebP that Pillow .* ordinary PNG",
        ),
        ("x.bmp", b"BM" + bytes(40), r"a kind of BMP that Pillow .*header type \(0\).* ordinary PNG"),
        ("x.tif", b"II*\0\x08\0\0\0\0\0\0\0\0\0", "no width or height"),
        ("y.tif", b"II*\0\xff\xff\xff\0", "ends early"),
    ],
)
def test_what_is_no_image_is_named_with_its_cure(tmp_path, capfd, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        codec.read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path, capfd):
    data = bytearray(WHOLE["a.png"])
    data[len(data) // 2] ^= 4
    with pytest.raises(InputError, match=r"checksum of its IDAT data at byte 41 is wrong"):
        _read(tmp_path, bytes(data))
    assert capfd.readouterr() == ("", "")


def test_profiles_that_libpng_complains_about_do_not_reach_it(tmp_path, capfd):
    whole = WHOLE["a.png"]
    bad = b"sRGB\0\0broken"
    chunk = struct.pack(">I", len(bad)) + b"iCCP" + bad + struct.pack(">I", zlib.crc32(b"iCCP" + bad))
    np.testing.assert_array_equal(_read(tmp_path, whole[:33] + chunk + whole[33:]), NOISE)
    assert capfd.readouterr() == ("", "")


def test_interlaced_png(tmp_path):
    # Pillow writes none: the seven passes of a 5 x 3 gray image, by the definition of the format.
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5) * 16
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx] if row.size]
    data = _png((5, 3, 8, 0, 0, 0, 1), zlib.compress(b"".join(rows)))
    np.testing.assert_array_equal(_read(tmp_path, data)[..., 0], pixels)
    with pytest.raises(InputError, match="pixel data for"):
        _read(tmp_path, _png((5, 3, 8, 0, 0, 0, 1), zlib.compress(b"".join(rows[:-1]))))


def test_an_image_after_the_end_of_a_jpeg_is_ignored(tmp_path):
    expected = _read(tmp_path, WHOLE["a.jpg"])
    np.testing.assert_array_equal(
        _read(tmp_path, WHOLE["a.jpg"] + b"MotionPhoto" + WHOLE["p.jpg"][:99]), expected
    )


def _bombs():
    size = 40_000
    png = _png((size, size, 8, 2, 0, 0, 0), zlib.compress(b""))
    bmp = b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, size, size, 1, 24, 0, 0, 0, 0, 0, 0)
    jpg = bytearray(WHOLE["a.jpg"])
    at = jpg.index(b"\xff\xc0")
    jpg[at + 5 : at + 9] = struct.pack(">HH", size, size)
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (size - 1).to_bytes(3, "little") * 2
    tif = _encoded(RGB, "TIFF")
    for tag in (256, 257):
        for kind in (3, 4):
            entry = struct.pack("<HHI", tag, kind, 1)
            if entry in tif:
                at = tif.index(entry)
                tif = tif[:at] + struct.pack("<HHII", tag, 4, 1, size) + tif[at + 12 :]
    return {"b.png": png, "b.bmp": bmp, "b.jpg": bytes(jpg), "b.webp": webp, "b.tif": tif}


@pytest.mark.parametrize("name", _bombs())
def test_a_size_that_would_fill_the_memory_is_refused_before_decoding(tmp_path, monkeypatch, name):
    monkeypatch.setattr(codec, "decode", lambda *_: pytest.fail("decoded"))
    (tmp_path / name).write_bytes(_bombs()[name])
    for read in (codec.read_image, codec.read_image_size):
        with pytest.raises(InputError, match=rf"{name}: .*40000 x 40000 pixels.*268 megapixels.*cut it"):
            read(tmp_path / name)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: no such file; check the spelling"):
        codec.read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is a folder"):
        codec.read_image_size(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not an ordinary file"):
        codec.read_image(tmp_path / "pipe.png")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(WHOLE["a.png"])

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(
        InputError, match=r"a\.png: cannot be read \(Permission denied\); check its permissions"
    ):
        codec.read_image(tmp_path / "a.png")


def test_a_tiff_that_opencv_would_make_black_is_refused(tmp_path, capfd):
    lzw = struct.pack("<HHIHH", 259, 3, 1, 5, 0)
    data = WHOLE["z.tif"].replace(lzw, lzw[:8] + struct.pack("<HH", 34712, 0))  # JPEG 2000 inside
    with pytest.raises(
        InputError, match=r"a\.tif: a TIFF of compression 34712 cannot be read; save it with LZW"
    ):
        _read(tmp_path, data, "a.tif")
    data = bytearray(_encoded(NOISE, "TIFF", compression="tiff_deflate"))
    data[2000] ^= 1
    with pytest.raises(InputError, match=r"b\.tif: the file is damaged \(its pixel data does not decompress"):
        _read(tmp_path, bytes(data), "b.tif")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("dtype", "decoder"), [(np.uint8, "Pillow"), (np.uint16, "OpenCV")])
def test_what_cannot_be_decoded_is_reported_by_us_and_not_on_the_terminal(tmp_path, capfd, dtype, decoder):
    import cv2

    log = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging
    found = log.getLogLevel()
    log.setLogLevel(2)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", NOISE.astype(dtype), photometric="rgb", rowsperstrip=len(NOISE))
    whole = (tmp_path / "a.tif").read_bytes()
    rows = next(head for kind in (3, 4) if (head := struct.pack("<HHI", 278, kind, 1)) in whole)
    data = whole.replace(rows + bytes([len(NOISE)]), rows + b"\0")
    assert data != whole
    try:
        with pytest.raises(
            InputError, match=rf"a\.tif: it is damaged, or a kind of TIFF that {decoder} .* PNG"
        ):
            _read(tmp_path, data, "a.tif")
        assert capfd.readouterr() == ("", "")
        assert log.getLogLevel() == 2
    finally:
        log.setLogLevel(found)


def test_an_end_marker_inside_a_comment_is_not_the_end_of_a_jpeg(tmp_path):
    data = WHOLE["p.jpg"]
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)  # a progressive JPEG has one scan after another
    between = data[:second] + b"\xff\xfe\x00\x06ab\xff\xd9" + data[second:]
    np.testing.assert_array_equal(_read(tmp_path, between, "a.jpg"), _read(tmp_path, data, "b.jpg"))
    with pytest.raises(InputError, match="ends early"):
        _read(tmp_path, between[: second + 50], "c.jpg")


def test_a_bmp_whose_rows_run_downwards(tmp_path):
    data = bytearray(WHOLE["a.bmp"])
    data[22:26] = struct.pack("<i", -NOISE.shape[0])
    np.testing.assert_array_equal(_read(tmp_path, bytes(data), "a.bmp"), NOISE[::-1])


def test_junk_between_the_segments_of_a_jpeg_is_skipped(tmp_path):
    data = WHOLE["a.jpg"]
    table = data.index(b"\xff\xdb")
    np.testing.assert_array_equal(
        _read(tmp_path, data[:table] + b"junk" + data[table:], "a.jpg"), _read(tmp_path, data, "b.jpg")
    )


def test_the_limits_and_warnings_of_pillow_are_not_ours_and_stay_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for name, data in WHOLE.items():
        assert _read(tmp_path, data, name).shape == NOISE.shape
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")


def test_threads_that_read_at_once_leave_pillow_and_opencv_as_they_found_them(tmp_path):
    import cv2

    log = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging
    before = log.getLogLevel(), Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    for name in ("a.jpg", "a.tif"):
        (tmp_path / name).write_bytes(WHOLE[name])
    codec.write_image(tmp_path / "deep.png", NOISE.astype(np.uint16))
    paths = sorted(tmp_path.iterdir()) * 20
    with ThreadPoolExecutor(8) as pool:
        shapes = {pixels.shape for pixels in pool.map(codec.read_image, paths)}
    assert shapes == {NOISE.shape}
    assert (log.getLogLevel(), Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_a_tiff_whose_tags_point_behind_its_end_is_cut_off(tmp_path, capfd):
    whole = _encoded(NOISE, "TIFF", compression="jpeg")  # its tables would be missed by libjpeg, aloud
    for length in range(len(whole) - 500, len(whole) - 4, 7):
        with pytest.raises(InputError, match="ends early|damaged"):
            _read(tmp_path, whole[:length], "a.tif")
    assert capfd.readouterr() == ("", "")


class _NoPillow:
    """Fails as an import does where Pillow is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_missing_pillow_is_named_and_not_taken_for_a_damaged_file(tmp_path, monkeypatch, name):
    for module in [module for module in sys.modules if module.startswith("PIL")]:
        monkeypatch.delitem(sys.modules, module)
    finders = [_NoPillow(), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(MissingDependencyError, match="Reading images needs the Python package 'PIL"):
        _read(tmp_path, WHOLE[name], name)

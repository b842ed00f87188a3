"""Images on disk: what others wrote comes back, and what we write others read."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL import __version__ as pillow_version

from hasn_edge.errors import InputError, OutputError
from hasn_edge.images import codec
from hasn_edge.images.arrays import split_alpha, to_rgb
from hasn_edge.images.listing import SUFFIXES
from tests.support import bmp_files, image_files

CASES = Path(__file__).parent / "cases"


def _gradient(channels, dtype=np.uint8, size=(20, 30)):
    y, x = np.mgrid[: size[0], : size[1]]
    planes = [x * 8, y * 12, 255 - x * 4 - y * 3, 255 - x * 8][:channels]
    return (np.stack(planes, -1).clip(0, 255) * (257 if dtype == np.uint16 else 1)).astype(dtype)


def _encoded(image, kind, **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def _read(tmp_path, data, name="image.png"):
    path = tmp_path / name
    path.write_bytes(data)
    pixels = codec.read_image(path)
    assert codec.read_image_size(path) == pixels.shape[:2]
    assert pixels.flags.c_contiguous
    return pixels


def _png(header, *datas, name=b"IDAT", end=True):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header)), *((name, data) for data in datas)]
    chunks += [(b"IEND", b"")] if end else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


GRAY, RGB, RGBA = _gradient(1)[..., 0], _gradient(3), _gradient(4)
GRAY_ALPHA = np.stack([GRAY, 255 - GRAY], -1)
PALETTE = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=40)
BILEVEL = Image.fromarray(GRAY).convert("1")


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (RGB, "PNG", {}, RGB),
        (RGBA, "PNG", {}, RGBA),
        (GRAY, "PNG", {}, GRAY[..., None]),
        (GRAY_ALPHA, "PNG", {}, GRAY_ALPHA),
        (GRAY.astype(np.uint16) * 257, "PNG", {}, GRAY[..., None].astype(np.uint16) * 257),
        (PALETTE, "PNG", {}, np.asarray(PALETTE.convert("RGB"))),
        (PALETTE, "PNG", {"transparency": 7}, None),
        (BILEVEL, "PNG", {}, np.asarray(BILEVEL.convert("L"))[..., None]),
        (RGB, "PNG", {"transparency": tuple(int(v) for v in RGB[3, 5])}, None),
        (GRAY, "PNG", {"transparency": int(GRAY[3, 5])}, None),
        (BILEVEL, "PNG", {"transparency": 255}, None),
        (RGB, "BMP", {}, RGB),
        (GRAY, "BMP", {}, GRAY[..., None]),
        (PALETTE, "BMP", {}, np.asarray(PALETTE.convert("RGB"))),
        (BILEVEL, "BMP", {}, np.asarray(BILEVEL.convert("L"))[..., None]),
        (RGB, "TIFF", {}, RGB),
        (RGB, "TIFF", {"compression": "tiff_lzw"}, RGB),
        (RGB, "TIFF", {"compression": "tiff_adobe_deflate"}, RGB),
        (RGBA, "TIFF", {}, RGBA),
        (GRAY, "TIFF", {}, GRAY[..., None]),
        (GRAY.astype(np.uint16) * 257, "TIFF", {}, GRAY[..., None].astype(np.uint16) * 257),
        (PALETTE, "TIFF", {}, np.asarray(PALETTE.convert("RGB"))),
        (BILEVEL, "TIFF", {}, np.asarray(BILEVEL.convert("L"))[..., None]),
        (BILEVEL, "TIFF", {"compression": "group4"}, np.asarray(BILEVEL.convert("L"))[..., None]),
        (RGB, "WEBP", {"lossless": True}, RGB),
        (RGBA, "WEBP", {"lossless": True, "exact": True}, RGBA),
    ],
)
def test_lossless_files_of_pillow_come_back(tmp_path, image, kind, options, expected):
    data = _encoded(image, kind, **options)
    pixels = _read(tmp_path, data)
    if expected is None:  # a colour stands for transparency: Pillow says where
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        assert pixels.shape[2] in (2, 4)
        pixels = pixels if pixels.shape[2] == 4 else pixels[..., [0, 0, 0, 1]]
        assert (pixels[..., 3] == 0).any()
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [("RGB", "JPEG", 3), ("L", "JPEG", 1), ("CMYK", "JPEG", 3), ("RGB", "WEBP", 3)],
)
@pytest.mark.parametrize("extra", [{}, {"progressive": True}])
def test_lossy_files_of_pillow_come_back_nearly(tmp_path, mode, kind, channels, extra):
    data = _encoded(Image.fromarray(RGB).convert(mode), kind, quality=98, **extra)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB"))
    pixels = _read(tmp_path, data)
    assert pixels.shape == (20, 30, channels)
    assert np.abs(pixels - expected.reshape(pixels.shape).astype(int)).max() <= 4  # decoders differ a little


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
def test_all_eight_orientations_are_applied(tmp_path, kind, options, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = _encoded(RGB, kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels = _read(tmp_path, data)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_of_sixteen_bits_comes_upright_out_of_opencv(tmp_path, orientation):
    tifffile = pytest.importorskip("tifffile")
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", _gradient(3, np.uint16), photometric="rgb", extratags=[tag])
    exif = Image.Exif()
    exif[274] = orientation
    data = _encoded(RGB, "TIFF", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(np.uint16) * 257
    np.testing.assert_array_equal(_read(tmp_path, (tmp_path / "a.tif").read_bytes(), "b.tif"), expected)


def test_nonsense_in_an_exif_block_is_no_reason_to_refuse_the_image(tmp_path):
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        assert _read(tmp_path, _encoded(RGB, "JPEG", exif=exif)).shape == RGB.shape
    strange = Image.Exif()
    strange[274] = 9
    np.testing.assert_array_equal(_read(tmp_path, _encoded(RGB, "PNG", exif=strange)), RGB)


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((20, 30, 3), {"photometric": "rgb"}, lambda x: x),
        ((20, 30, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, lambda x: x),
        ((20, 30, 3), {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}, lambda x: x),
        ((20, 30), {"photometric": "miniswhite"}, lambda x: np.iinfo(x.dtype).max - x[..., None]),
        ((20, 30), {"rowsperstrip": 3}, lambda x: x[..., None]),
        ((70, 100, 3), {"photometric": "rgb", "tile": (32, 32)}, lambda x: x),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_of_tifffile_come_back(tmp_path, shape, options, expected, dtype):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    np.testing.assert_array_equal(codec.read_image(tmp_path / "a.tif"), expected(pixels))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_palette_tiff_comes_out_in_its_colours(tmp_path, bits):
    rng = np.random.default_rng(bits)
    palette = rng.integers(0, 256, (1 << bits, 3), dtype=np.uint8)
    indices = rng.integers(0, 1 << bits, (5, 8), dtype=np.uint8)
    digits = np.unpackbits(indices[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(digits.reshape(5, -1), axis=1).tobytes()
    table = (palette.T.astype("<u2") * 257).tobytes()
    tags = {256: 8, 257: 5, 258: bits, 259: 1, 262: 3, 273: 8, 277: 1, 278: 5, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    entries += struct.pack("<HHII", 320, 3, 3 << bits, 8 + len(rows))
    directory = struct.pack("<H", len(tags) + 1) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(rows) + len(table)) + rows + table + directory
    np.testing.assert_array_equal(_read(tmp_path, data, "a.tif"), palette[indices])


def test_premultiplied_alpha_is_divided_out(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    straight = np.array([[[200, 100, 50, 128], [10, 20, 30, 255], [0, 0, 0, 0]]], np.uint8)
    stored = straight.astype(float)
    stored[..., :3] *= straight[..., 3:] / 255
    stored = np.rint(stored).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(codec.read_image(tmp_path / "a.tif"), straight, atol=1)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (GRAY.astype(np.float32), {}, "32-bit floating-point samples"),
        (GRAY.astype(np.int16), {}, "16-bit signed samples"),
        (GRAY.astype(np.uint32), {}, "32-bit samples"),
        (GRAY_ALPHA, {"photometric": "minisblack", "planarconfig": "contig"}, "gray with alpha as PNG"),
        (np.moveaxis(RGB, -1, 0).astype(np.uint16), {"photometric": "rgb"}, "one plane per channel"),
        (
            np.zeros((20, 30, 6), np.uint8),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "6 samples",
        ),
    ],
)
def test_tiffs_that_would_come_out_wrong_are_refused(tmp_path, pixels, options, message):
    tifffile = pytest.importorskip("tifffile")
    if message == "one plane per channel":
        options = {**options, "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "scan.tif", pixels, **options)
    with pytest.raises(InputError, match=rf"scan\.tif: .*{message}") as caught:
        codec.read_image(tmp_path / "scan.tif")
    assert "save it as 8- or 16-bit gray or RGB first" in str(caught.value)


def test_a_big_endian_bigtiff_that_only_opencv_reads_is_refused_where_opencv_is_wrong(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "bigtiff": True, "byteorder": ">"}
    tifffile.imwrite(tmp_path / "a.tif", RGBA, **options)
    with pytest.raises(InputError, match="a big-endian BigTIFF .* with alpha cannot be read"):
        codec.read_image(tmp_path / "a.tif")


def test_sixteen_bit_colour_and_alpha_survive_a_round_trip(tmp_path):
    for name in ("a.png", "a.tiff", "a.tif"):
        for channels in (1, 3, 4):
            pixels = _gradient(channels, np.uint16) + np.uint16(3)
            codec.write_image(tmp_path / name, pixels)
            np.testing.assert_array_equal(codec.read_image(tmp_path / name), pixels)


def test_sixteen_bit_gray_with_alpha_png(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 2), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    data = _png((7, 5, 16, 4, 0, 0, 0), zlib.compress(rows))
    np.testing.assert_array_equal(_read(tmp_path, data), pixels)
    codec.write_image(tmp_path / "out.png", pixels)  # stored as RGB with alpha
    np.testing.assert_array_equal(codec.read_image(tmp_path / "out.png"), pixels[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_round_trips_and_names_may_be_anything(tmp_path, suffix, channels):
    path = tmp_path / "späße 写真" / f"my photo é{suffix.upper()}"
    pixels = _gradient(channels)
    codec.write_image(path, pixels, quality=100)
    back = codec.read_image(path)
    if suffix == ".webp" and channels == 1:
        back = back[..., :1]
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).max() <= (3 if suffix.startswith(".j") else 0)
    with Image.open(path) as opened:  # another reader agrees
        assert opened.size == (30, 20)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 1), (3, 2)])
def test_the_smallest_images(tmp_path, suffix, size):
    pixels = np.full((*size, 3), 77, np.uint8)
    codec.write_image(tmp_path / f"a{suffix}", pixels)
    np.testing.assert_allclose(codec.read_image(tmp_path / f"a{suffix}"), pixels, atol=3)
    assert codec.read_image_size(tmp_path / f"a{suffix}") == size


def test_other_programs_see_the_alpha_of_a_tiff_we_wrote(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    codec.write_image(tmp_path / "a.tiff", RGBA)
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        assert [int(e) for e in tiff.pages[0].extrasamples] == [2]  # unassociated alpha
    with Image.open(tmp_path / "a.tiff") as opened:
        np.testing.assert_array_equal(np.asarray(opened), RGBA)


# --- every format and depth, by the definition of the format and by Pillow -----------------------------


def _shown(pixels):
    """As RGB with alpha of 8 bits, which Pillow makes of every file."""
    colour, alpha = split_alpha(pixels)
    opaque = np.full_like(colour[..., :1], 255)
    return np.concatenate([to_rgb(colour), opaque if alpha is None else alpha], axis=2)


def _compare(name, data, expected, pixels, *, tolerance=0):
    if expected is not None:
        assert pixels.shape == expected.shape, name
        assert np.abs(pixels.astype(int) - expected).max() <= tolerance, name
    if pixels.dtype == np.uint8:
        with Image.open(io.BytesIO(data)) as opened:
            by_pillow = np.asarray(opened.convert("RGBA")).astype(int)
        # Pillow compares the key of a gray PNG of 2 or 4 bits with levels of 8: its alpha is none.
        seen = slice(3 if name.startswith(("png-0-2", "png-0-4")) else 4)
        assert np.abs(_shown(pixels) - by_pillow)[..., seen].max() <= tolerance, name


def test_every_png_comes_out_as_it_was_drawn(tmp_path):
    for name, data, expected in image_files.pngs():
        _compare(name, data, expected, _read(tmp_path, data, f"{name}.png"))


@pytest.mark.slow
def test_every_tiff_comes_out_as_it_was_drawn_or_is_refused(tmp_path):
    read, refused = [], []
    for name, data, expected in image_files.tiffs():
        try:
            pixels = _read(tmp_path, data, f"{name}.tif")
        except InputError as exc:
            refused.append(str(exc))
            continue
        _compare(name, data, expected, pixels, tolerance=1 if name.endswith("-1") else 0)
        read.append(name)
    assert all(re.search("save it (again )?as ", message) for message in refused)
    for photometric, depths in (
        (0, (1, 2, 4, 8, 16)),
        (1, (1, 2, 4, 8, 16)),
        (2, (8, 16)),
        (3, (1, 2, 4, 8)),
    ):
        for bits, packing in itertools.product(depths, ("", "deflate")):
            assert f"tiff-{photometric}-{bits}-<-1-{packing}-None" in read, (photometric, bits, packing)
    assert {"tiff-2-8->-1--None", "tiff-2-8-<-1--2", "tiff-2-16-<-1--2", "tiff-5-8-<-1--None"} <= set(read)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16"])
def test_every_mode_and_compression_of_pillows_tiffs(tmp_path, mode):
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(RGBA if mode == "RGBA" else RGB).convert(mode)
    more = {"1": ("group3", "group4", "tiff_ccitt"), "P": (), "I;16": ()}.get(mode, ("jpeg",))
    for compression in ("", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", *more):
        data = _encoded(image, "TIFF", **({"compression": compression} if compression else {}))
        pixels = _read(tmp_path, data, "a.tif")
        _compare(
            f"{mode} {compression}", data, np.asarray(deep)[..., None] if mode == "I;16" else None, pixels
        )


@pytest.mark.parametrize(
    "name",
    ["bitfields32", "bitfields32-default-masks", "os2-24bit", "rgb565", "rle8-padded-rows"],
)
def test_bitmaps_of_real_programs_have_their_colours(name):
    expected = codec.read_image(CASES / "reference_16x16.png")
    pixels = codec.read_image(CASES / f"bmp-{name}.bmp")
    expected = expected[: pixels.shape[0], : pixels.shape[1]]
    assert pixels.shape == expected.shape  # three channels, opaque
    assert np.abs(pixels.astype(int) - expected).max() <= (4 if name == "rgb565" else 0)
    assert (pixels == 255).all(axis=2).any()  # white is white, though it has five or six bits


def test_junk_between_the_segments_of_a_jpeg_is_skipped():
    with Image.open(CASES / "jpeg-junk.jpg") as opened:
        expected = np.asarray(opened)
    np.testing.assert_array_equal(codec.read_image(CASES / "jpeg-junk.jpg"), expected)


# --- BMP, of which each decoder knows other kinds ------------------------------------------------------


def _bitmaps():
    for header in bmp_files.HEADERS:
        turns = (False, True) if header > 12 else (False,)
        for down in turns:
            for bits in (1, 2, 4, 8):
                yield f"palette-{header}-{bits}-{down}", bmp_files.indexed(header, bits, down=down)
            for bits, colours in ((1, 1), (4, 5), (8, 3), (8, 200)) if header >= 40 else ():
                name = f"few-{header}-{bits}-{colours}-{down}"
                yield name, bmp_files.indexed(header, bits, down=down, colours=colours)
            for bits in (16, 24, 32):
                yield f"direct-{header}-{bits}-{down}", bmp_files.direct(header, bits, down=down)
            for masks in bmp_files.MASKS if header in (40, 52, 56, 108, 124) else ():
                if header >= 56 or masks not in ("bgra", "rgba"):  # the others have no room for alpha
                    yield f"{masks}-{header}-{down}", bmp_files.masked(header, masks, down=down)
        for bits in (4, 8) if header >= 40 else ():
            for width in (12, 13, 14):
                yield f"rle-{header}-{bits}-{width}", bmp_files.indexed(header, bits, rle=True, width=width)


@pytest.mark.slow
def test_every_kind_of_bmp_comes_out_as_it_was_drawn_or_is_refused(tmp_path):
    refused = {}
    for name, bitmap in _bitmaps():
        try:
            pixels = _read(tmp_path, bitmap.data, f"{name}.bmp")
        except InputError as exc:
            refused[name] = str(exc)
            continue
        assert pixels.shape == bitmap.pixels.shape, name
        few = name.startswith(("565", "555")) or "-16-" in name  # five and six bits are stretched to eight
        assert np.abs(pixels.astype(int) - bitmap.pixels).max() <= few, name
    assert all("save it again as an ordinary PNG" in message for message in refused.values())
    rare = ["444", "ten bits", "rgbx", "palette-16", "direct-16"]
    if int(pillow_version.split(".")[0]) < 13:  # earlier ones shift rows of odd run lengths
        rare += [f"rle-{header}-4" for header in bmp_files.HEADERS]
    assert [name for name in refused if "-2-" not in name and not name.startswith(tuple(rare))] == []


@pytest.mark.slow
def test_a_cut_bmp_of_every_kind_is_refused(tmp_path):
    for name, bitmap in _bitmaps():
        (tmp_path / "a.bmp").write_bytes(bitmap.data[:-20])
        with pytest.raises(InputError, match=r"a\.bmp"):
            codec.read_image(tmp_path / "a.bmp")
            pytest.fail(name)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("gray", [False, True])
def test_a_gif_of_one_frame_is_an_image(tmp_path, gray, transparent):
    image = Image.fromarray(GRAY if gray else RGB)
    image = image if gray else image.quantize(64)
    image.save(tmp_path / "a.gif", **({"transparency": int(np.asarray(image)[0, 0])} if transparent else {}))
    with Image.open(tmp_path / "a.gif") as opened:
        expected = np.asarray(opened.convert("RGBA"))
    pixels = codec.read_image(tmp_path / "a.gif")
    assert pixels.shape[2] in ((2, 4) if transparent else (1, 3))
    colour = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]
    np.testing.assert_array_equal(colour, expected[..., :3])
    if transparent:
        np.testing.assert_array_equal(pixels[..., -1], expected[..., 3])


NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)

# --- writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("a.jpg", _gradient(3, np.uint16), r"JPEG holds 8 bits, the image has 16; use \.png or \.tiff"),
        ("a.webp", _gradient(3, np.uint16), "WebP holds 8 bits"),
        ("a.jpg", RGBA, r"JPEG has no transparency, the image has; use \.png, \.webp or \.tiff"),
        ("a.bmp", GRAY_ALPHA, "BMP has no transparency"),
        ("a.webp", np.zeros((1, 20000, 3), np.uint8), "WebP holds at most 16383 pixels a side.*20000 x 1"),
        ("a.gif", RGB, r"unknown ending '\.gif'; use one of \.png, \.jpg"),
        ("a", RGB, "unknown ending ''"),
        ("a.png", GRAY[0], r"1 to 4 channels, got shape \(30,\)"),
        ("a.png", RGB.astype(np.float32), "uint8 or uint16, got float32"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, pixels, message):
    with pytest.raises(InputError, match=message):
        codec.write_image(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())


def test_conversion_on_request(tmp_path):
    deep = _gradient(4, np.uint16)
    deep[..., 3] = 65535
    deep[0, 0] = (0, 0, 0, 0)
    codec.write_image(tmp_path / "a.bmp", deep, convert=True)
    flat = codec.read_image(tmp_path / "a.bmp")
    np.testing.assert_array_equal(flat[1:], _gradient(3)[1:])
    np.testing.assert_array_equal(flat[0, 0], [255, 255, 255])
    codec.write_image(tmp_path / "a.png", deep, convert=True)  # nothing needs converting
    np.testing.assert_array_equal(codec.read_image(tmp_path / "a.png"), deep)


def test_quality_out_of_range(tmp_path):
    with pytest.raises(InputError, match="quality is 0; expected 1 to 100"):
        codec.write_image(tmp_path / "a.jpg", RGB, quality=0)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    codec.write_image(tmp_path / "a.png", RGB)
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot write .*a\.png: No space left"):
        codec.write_image(tmp_path / "a.png", RGB[::-1])
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_full_disk_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the system refuses to write more than that
    try:
        with pytest.raises(OutputError, match=r"cannot write .*a\.png: .*free some space, or choose another"):
            codec.write_image(tmp_path / "a.png", NOISE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*a\.png: .*choose a folder that you may write to"):
        codec.write_image(tmp_path / "file" / "a.png", NOISE)

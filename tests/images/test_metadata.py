"""Profile, resolution, dates and authors go into every format that holds them; the rest is said."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from hasn_edge.images.codec import read_image, write_image
from hasn_edge.images.metadata import ImageMetadata, is_still, keep_colours, read_metadata

CASES = Path(__file__).parent / "cases"
with Image.open(CASES / "display-p3.jpg") as _opened:
    P3 = _opened.info["icc_profile"]
NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
HOLD = [".png", ".jpg", ".webp", ".tiff"]


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[274], block[306], block[315], block[33432] = orientation, "2024:05:06 07:08:09", "Ada", "(c) Ada"
    block.get_ifd(0x8769)[36867] = "2024:05:06 07:08:00"
    block.get_ifd(0x8825)[1] = "N"
    return block


def photo(path: Path, channels: int = 3, **options) -> Path:
    pixels = NOISE[..., :channels] if channels > 1 else NOISE[..., 0]
    Image.fromarray(pixels).save(path, icc_profile=P3, exif=exif(), dpi=(300, 240), **options)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, *chunks: tuple[bytes, bytes], mode: str = "RGB") -> Path:
    stream = io.BytesIO()
    Image.fromarray(NOISE[..., :3] if mode == "RGB" else NOISE[..., 0]).save(stream, "PNG")
    data = stream.getvalue()
    path.write_bytes(data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:])
    return path


@pytest.mark.parametrize("target", HOLD)
@pytest.mark.parametrize("source", HOLD)
def test_everything_goes_from_each_format_into_each(tmp_path, source, target):
    metadata = read_metadata(photo(tmp_path / f"in{source}"))
    pixels = np.ascontiguousarray(NOISE[..., :3])
    write_image(tmp_path / f"out{target}", pixels, metadata=metadata, quality=100)
    with Image.open(tmp_path / f"out{target}") as opened:
        opened.load()
        assert opened.info["icc_profile"] == P3
        block = opened.getexif()
        assert (block[306], block[315], block[33432]) == ("2024:05:06 07:08:09", "Ada", "(c) Ada")
        assert not block.get_ifd(0x8825)  # where it was taken stays with the original
        if ".tiff" not in (source, target):  # Pillow writes no dates of the exposure into one
            assert block.get_ifd(0x8769)[36867] == "2024:05:06 07:08:00"
        if ".webp" not in (source, target):  # which has no resolution
            assert opened.info["dpi"] == pytest.approx((300, 240), abs=0.02)
        if target != ".jpg":
            np.testing.assert_array_equal(np.asarray(opened), pixels)
    np.testing.assert_allclose(read_image(tmp_path / f"out{target}"), pixels, atol=12)


@pytest.mark.parametrize("target", [0x7FFFFFFF, 3, -1])
def test_a_broken_page_costs_only_those_after_it(tmp_path, target):
    three = [Image.fromarray(NOISE[..., :3])] * 3
    three[0].save(tmp_path / "a.tiff", icc_profile=P3, dpi=(300, 240), save_all=True, append_images=three[1:])
    whole = read_metadata(tmp_path / "a.tiff")
    assert (whole.icc, whole.dpi, whole.further) == (P3, (300, 240), 2)
    data = bytearray((tmp_path / "a.tiff").read_bytes())
    for further in (1, 0):  # the link to the third page, then to the second
        at = 4
        for _ in range(further + 1):
            (page,) = struct.unpack_from("<I", data, at)
            (entries,) = struct.unpack_from("<H", data, page)
            at = page + 2 + 12 * entries
        struct.pack_into("<I", data, at, target if target > 0 else len(data) - 1)
        (tmp_path / "a.tiff").write_bytes(data)
        assert read_metadata(tmp_path / "a.tiff") == replace(whole, further=further)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_broken_block_of_exif_costs_no_profile(tmp_path, suffix):
    options = {"icc_profile": P3, "exif": b"Exif\0\0garbagegarbage"}
    Image.fromarray(NOISE[..., :3]).save(tmp_path / f"a{suffix}", **options)
    metadata = read_metadata(tmp_path / f"a{suffix}")
    assert (metadata.icc, metadata.exif) == (P3, b"")


@pytest.mark.parametrize("suffix", HOLD)
def test_names_keep_their_letters(tmp_path, suffix):
    name, block = "© 2024 Jörg".encode(), Image.Exif()  # UTF-8, as most cameras and programs write it
    block[33432] = name
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "in.jpg", exif=block)
    metadata = read_metadata(tmp_path / "in.jpg")
    write_image(tmp_path / f"out{suffix}", np.ascontiguousarray(NOISE[..., :3]), metadata=metadata)
    assert name in (tmp_path / f"out{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
@pytest.mark.parametrize("quality", [95, 100])
def test_transparency_stays_beside_it(tmp_path, suffix, quality):
    metadata = read_metadata(photo(tmp_path / "in.png"))
    write_image(tmp_path / f"plain{suffix}", NOISE, quality=quality)
    write_image(tmp_path / f"out{suffix}", NOISE, metadata=metadata, quality=quality)
    with Image.open(tmp_path / f"plain{suffix}") as plain, Image.open(tmp_path / f"out{suffix}") as out:
        assert out.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(out), np.asarray(plain))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_have_a_profile_too(tmp_path, suffix):
    deep = NOISE[..., :3].astype(np.uint16) * 257 + 3
    write_image(tmp_path / f"a{suffix}", deep, metadata=ImageMetadata(icc=P3, dpi=(72.0, 72.0)))
    assert read_metadata(tmp_path / f"a{suffix}").icc == P3
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), deep)


def test_the_orientation_is_applied_once(tmp_path):
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "in.png", exif=exif(6))
    pixels = read_image(tmp_path / "in.png")
    assert pixels.shape == (30, 20, 3)
    for suffix in HOLD:
        write_image(tmp_path / f"out{suffix}", pixels, metadata=read_metadata(tmp_path / "in.png"))
        assert read_image(tmp_path / f"out{suffix}").shape == (30, 20, 3)


CHROMA = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SAYING = {
    "gamma": [(b"gAMA", struct.pack(">I", 55000))],
    "chromaticities": [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", CHROMA)],
    "cicp": [(b"cICP", bytes([12, 13, 0, 1]))],
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", SAYING)
def test_chunks_of_a_png_stay_in_a_png_and_become_a_profile_elsewhere(tmp_path, name, mode):
    source = png(tmp_path / "in.png", *SAYING[name], mode=mode)
    pixels, metadata, note = keep_colours(read_image(source), read_metadata(source), tmp_path / "out.png")
    assert note == ""
    write_image(tmp_path / "out.png", pixels, metadata=metadata)
    assert read_metadata(tmp_path / "out.png").chunks == tuple(SAYING[name])
    pixels, metadata, note = keep_colours(read_image(source), read_metadata(source), tmp_path / "out.tiff")
    write_image(tmp_path / "out.tiff", pixels, metadata=metadata)
    with Image.open(tmp_path / "out.tiff") as opened:
        profile = ImageCms.getOpenProfile(io.BytesIO(opened.info["icc_profile"]))
    assert profile.profile.xcolor_space.strip() == ("RGB" if mode == "RGB" else "GRAY")


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [(b"sRGB", b"\0")],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 60000))],
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"gAMA", struct.pack(">I", 0))],
        [(b"gAMA", b"1")],
        [(b"cHRM", bytes(32))],
        [(b"iCCP", b"broken\0\0" + b"nonsense")],
        [(b"cICP", bytes([1, 13, 0, 1])), (b"iCCP", b"p\0\0" + zlib.compress(P3))],
        [(b"eXIf", b"nonsense"), (b"pHYs", b"12")],
    ],
)
def test_where_nothing_else_is_said_an_image_is_srgb(tmp_path, chunks):
    source = png(tmp_path / "in.png", *chunks)
    metadata = read_metadata(source)
    assert (metadata.icc, metadata.colours, metadata.dpi) == (b"", "", None)
    assert keep_colours(NOISE, metadata, tmp_path / "a.bmp", srgb=True)[0] is NOISE


def test_colours_are_converted_where_that_is_asked_for_or_a_format_holds_no_profile(tmp_path):
    source = CASES / "display-p3.jpg"
    pixels, metadata = read_image(source), read_metadata(source)
    expected = ImageCms.profileToProfile(
        Image.fromarray(pixels), io.BytesIO(P3), ImageCms.createProfile("sRGB"), renderingIntent=1
    )
    for name, srgb in (("a.bmp", False), ("a.png", True)):
        out, left, note = keep_colours(pixels, metadata, Path(name), srgb=srgb)
        assert note == "its colour profile (Display P3) was converted to sRGB"
        assert np.abs(out.astype(int) - np.asarray(expected)).max() <= 1
        assert (left.icc, left.chunks) == (b"", ())
    out, left, note = keep_colours(pixels, metadata, Path("a.webp"))
    assert (out is pixels, left, note) == (True, metadata, "")


def test_what_cannot_be_kept_is_said(tmp_path):
    hdr = read_metadata(png(tmp_path / "hdr.png", (b"cICP", bytes([9, 16, 0, 1]))))
    assert keep_colours(NOISE, hdr, Path("a.png"))[2] == ""
    note = "its high dynamic range (PQ) is left out: it does not fit into sRGB"
    assert (
        keep_colours(NOISE, hdr, Path("a.jpg"))[2]
        == keep_colours(NOISE, hdr, Path("a.png"), srgb=True)[2]
        == note
    )
    cmyk = ImageMetadata(icc=P3[:16] + b"CMYK" + P3[20:])
    assert keep_colours(NOISE, cmyk, Path("a.png"))[2].endswith("it is not for the colours that were read")
    gray = ImageMetadata(icc=read_metadata(png(tmp_path / "g.png", *SAYING["gamma"], mode="L")).icc)
    assert keep_colours(NOISE[..., :1], gray, Path("a.tif"))[2] == ""
    assert "was converted" in keep_colours(NOISE[..., :1], gray, Path("a.webp"))[2]


def test_files_that_say_nothing_or_are_none(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "text.png", tmp_path / "missing.png"):
        assert read_metadata(path) == ImageMetadata()


@pytest.mark.parametrize(("suffix", "count"), [(".png", 4), (".webp", 3), (".tiff", 2), (".gif", 5)])
def test_further_frames_and_pages_are_counted(tmp_path, suffix, count):
    noise = np.random.default_rng(1).integers(0, 256, (count, 20, 30, 3), np.uint8)
    first, *rest = (Image.fromarray(pixels) for pixels in noise)
    first.save(tmp_path / f"all{suffix}", save_all=True, append_images=rest)
    first.save(tmp_path / f"one{suffix}")
    assert read_metadata(tmp_path / f"all{suffix}").further == count - 1
    assert read_metadata(tmp_path / f"one{suffix}").further == 0
    assert is_still(tmp_path / f"one{suffix}") == (suffix == ".gif")
    assert not is_still(tmp_path / f"all{suffix}")
    assert read_image(tmp_path / f"all{suffix}").shape == (20, 30, 3)


def test_a_preview_is_no_page(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(NOISE[..., :3], photometric="rgb")
        out.write(NOISE[::2, ::2, :3], photometric="rgb", subfiletype=1)
        out.write(NOISE[..., :3], photometric="rgb")
    assert read_metadata(tmp_path / "a.tif").further == 1

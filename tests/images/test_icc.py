"""Colours of profiles and of a PNG's chunks, against Little CMS."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from hasn_edge.images import icc
from hasn_edge.images.pillow import UnreadableError
from tests.images.test_metadata import P3

NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
PROFILES = {
    "Display P3": P3,
    "BT.2020": icc.profile_of_cicp(9, 1, gray=False),
    "linear P3": icc.profile_of_cicp(12, 8, gray=False),
    "gamma": icc.profile_of_gamma(0.55, None, gray=False),
    "cathode rays": icc.profile_of_cicp(6, 4, gray=False),
}


def by_little_cms(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    out = ImageCms.profileToProfile(
        image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), renderingIntent=1, outputMode="RGB"
    )
    return np.asarray(out)


@pytest.mark.parametrize("name", PROFILES)
def test_conversion_equals_little_cms(name):
    difference = icc.convert_to_srgb(NOISE, PROFILES[name]).astype(int) - by_little_cms(NOISE, PROFILES[name])
    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() < 0.1


def test_gray_keeps_its_one_channel():
    gray, profile = NOISE[..., :1], icc.profile_of_gamma(0.55, None, gray=True)
    converted = icc.convert_to_srgb(gray, profile)
    assert converted.shape == gray.shape
    assert np.abs(converted.astype(int) - by_little_cms(gray, profile)[..., :1]).max() <= 2


def test_sixteen_bits_stay_sixteen_bits():
    deep = NOISE.astype(np.uint16) * 257
    converted = icc.convert_to_srgb(deep, P3)
    assert converted.dtype == np.uint16
    assert np.abs(converted / 257 - by_little_cms(NOISE, P3)).max() < 1.6
    assert (
        len(np.unique(icc.convert_to_srgb(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1), DARK)))
        > 9999
    )


DARK = icc.profile_of_gamma(0.4, None, gray=True)


def test_primaries_of_the_display_come_out_as_in_the_published_profile():
    """Display P3's red is (0.51512, 0.2412, -0.00105) in the XYZ of D50."""
    made = icc._tags(icc.profile_of_cicp(12, 13, gray=False))
    red = np.frombuffer(made[b"rXYZ"], ">i4", 3, 8) / 65536
    assert red == pytest.approx([0.51512, 0.2412, -0.00105], abs=5e-4)
    assert icc.profile_of_cicp(1, 13, gray=False) == icc.profile_of_gamma(0.45455, None, gray=False) == b""


def test_profiles_of_tables():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(UnreadableError, match="it cannot be used"):
        icc.convert_to_srgb(NOISE, lab)
    with pytest.raises(UnreadableError, match="it has tables, which convert 8 bits only"):
        icc.convert_to_srgb(NOISE.astype(np.uint16), lab)


def test_every_kind_of_curve():
    levels = np.linspace(0, 1, 5)

    def para(kind: int, *values: float) -> bytes:
        numbers = (np.array(values) * 65536).astype(">i4").tobytes()
        return b"para\0\0\0\0" + bytes([0, kind, 0, 0]) + numbers

    def curv(*values: int) -> bytes:
        return b"curv\0\0\0\0" + len(values).to_bytes(4, "big") + np.array(values, ">u2").tobytes()

    expected = {
        curv(): levels,
        curv(2 * 256): levels**2,
        curv(0, 32768, 65535): levels,
        para(0, 2.0): levels**2,
        para(1, 2.0, 1.0, -0.5): [0, 0, 0, 0.0625, 0.25],
        para(2, 2.0, 1.0, -0.5, 0.25): [0.25, 0.25, 0.25, 0.3125, 0.5],
        para(3, 2.0, 1.0, 0.0, 0.5, 0.5): [0, 0.125, 0.25, 0.5625, 1],
        para(4, 2.0, 1.0, 0.0, 0.5, 0.5, 0.1, 0.2): [0.2, 0.325, 0.35, 0.6625, 1.1],
    }
    for data, values in expected.items():
        assert icc._curve(data, levels) == pytest.approx(values, abs=2e-5), data[:12]

"""ICC profiles of RGB and gray images: made from a PNG's chunks, and applied to get to sRGB."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.images.arrays import Float64, Pixels
from hasn_edge.images.pillow import UnreadableError
from hasn_edge.optional import require

Primaries = tuple[tuple[float, float], ...]
"""Chromaticities x and y of red, green, blue and white."""

_D65, _D50_XYZ = (0.3127, 0.329), np.array([0.9642, 1.0, 0.8249])
BT709: Primaries = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), _D65)
_PRIMARIES: dict[int, Primaries] = {
    1: BT709,
    5: ((0.64, 0.33), (0.29, 0.6), (0.15, 0.06), _D65),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    9: ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), _D65),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65),
}
"""By ITU-T H.273's number: BT.709, BT.601 (625 and 525 lines), BT.2020, Display P3."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_CAMERA_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, tuple[float, ...]] = {
    **dict.fromkeys((1, 6, 14, 15), _CAMERA_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: _SRGB_CURVE,
}
"""Parameters of ICC's curves of types 0 and 3, by H.273's number of the transfer."""
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_STRIP = 64  # rows converted at a time


def profile_of_cicp(primaries: int, transfer: int, *, gray: bool) -> bytes:
    """Return the profile of H.273's numbers; empty for sRGB itself, and where there is none."""
    if primaries not in _PRIMARIES or transfer not in _CURVES or (primaries, transfer) == (1, 13):
        return b""
    return make_profile(_PRIMARIES[primaries], _CURVES[transfer], gray=gray)


def profile_of_gamma(gamma: float | None, primaries: Primaries | None, *, gray: bool) -> bytes:
    """Return the profile of a PNG's gamma (0.45455 for most) and chromaticities; empty where it is sRGB's."""
    near = primaries is None or np.allclose(primaries, BT709, atol=0.002)
    if near and (gamma is None or abs(gamma - 0.45455) < 0.005):
        return b""
    if gamma is not None and not 0.05 < gamma < 5:
        return b""
    curve = _SRGB_CURVE if gamma is None else (1 / gamma,)
    return make_profile(BT709 if primaries is None else primaries, curve, gray=gray)


def make_profile(primaries: Primaries, curve: tuple[float, ...], *, gray: bool = False) -> bytes:
    """Return an ICC profile (version 4) of RGB, or of gray.

    Args:
        primaries: Of red, green, blue and white.
        curve: One number for a plain power, five for ICC's parametric curve of type 3.
        gray: The curve alone counts.
    """
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries]).T
    with np.errstate(all="ignore"):
        cones = _BRADFORD @ columns[:, 3]
        adaptation = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50_XYZ) / cones) @ _BRADFORD
        colorants = adaptation @ columns[:, :3] @ np.diag(np.linalg.solve(columns[:, :3], columns[:, 3]))

    def fixed(values: Any) -> bytes:
        numbers = np.rint(np.asarray(values, np.float64).ravel() * 65536).astype(">i4")
        return numbers.tobytes()

    def text(words: str) -> bytes:
        data = words.encode("utf-16-be")
        return b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(data), 28) + data

    para = b"para" + struct.pack(">4xHH", 0 if len(curve) == 1 else 3, 0) + fixed(curve)
    tags = {
        b"desc": text("made from the chunks of a PNG"),
        b"cprt": text("no copyright"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(_D50_XYZ),
        b"chad": b"sf32\0\0\0\0" + fixed(adaptation),
    }
    if gray:
        tags[b"kTRC"] = para
    else:
        for column, name in enumerate((b"r", b"g", b"b")):
            tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + fixed(colorants[:, column]), name + b"TRC": para}
    space = b"GRAY" if gray else b"RGB "
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12s4s", at + len(body), 0x04300000, b"mntr", space, b"XYZ ", b"", b"acsp"
    )
    header = header.ljust(68, b"\0") + fixed(_D50_XYZ)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def convert_to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """Return colours (no alpha) of a profile as sRGB, with the same number of channels.

    Profiles of three primaries and curves are computed in floats; those of tables by Little CMS.

    Args:
        pixels: ``(H, W, 1 or 3)`` of uint8 or uint16.
        icc: The profile, of gray or of RGB.

    Raises:
        UnreadableError: a profile that is damaged, or of tables for an image of 16 bits.
    """
    with suppress(struct.error, IndexError, KeyError, ValueError, np.linalg.LinAlgError):
        return _convert_by_matrix(pixels, _tags(icc))
    if pixels.dtype != np.uint8:
        raise UnreadableError("it has tables, which convert 8 bits only")
    cms: Any = require("PIL.ImageCms", extra="all", needed_for="Converting colour profiles")
    image: Any = require("PIL.Image", extra="all", needed_for="Converting colour profiles")
    try:
        source = image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
        out = cms.profileToProfile(source, io.BytesIO(icc), cms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ValueError, cms.PyCMSError) as exc:
        raise UnreadableError(f"it cannot be used ({exc})") from exc
    return np.ascontiguousarray(np.asarray(out)[..., : pixels.shape[2]])


def _convert_by_matrix(pixels: Pixels, tags: dict[bytes, bytes]) -> Pixels:
    top = int(np.iinfo(pixels.dtype).max)
    levels = np.arange(top + 1) / top
    gray = pixels.shape[2] == 1
    if b"A2B0" in tags:
        raise ValueError("tables")
    names = (b"k",) if gray else (b"r", b"g", b"b")
    curves = [_curve(tags[name + b"TRC"], levels) for name in names]
    matrix = np.eye(1)
    if not gray:
        read = [np.frombuffer(tags[name + b"XYZ"], ">i4", 3, 8) / 65536 for name in names]
        srgb = _tags(make_profile(BT709, _SRGB_CURVE))
        own = [np.frombuffer(srgb[name + b"XYZ"], ">i4", 3, 8) / 65536 for name in names]
        matrix = np.linalg.inv(np.array(own).T) @ np.array(read).T
    out = np.empty_like(pixels)
    for row in range(0, len(pixels), _STRIP):
        strip = pixels[row : row + _STRIP]
        linear = np.stack([curve[strip[..., i]] for i, curve in enumerate(curves)], axis=-1) @ matrix.T
        linear = np.clip(linear, 0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        out[row : row + _STRIP] = np.rint(encoded * top)
    return out


def _tags(icc: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", icc, 128)
    entries = (struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(min(count, 200)))
    return {name: icc[offset : offset + length] for name, offset, length in entries}


def _curve(data: bytes, levels: NDArray[Any]) -> Float64:
    """Return the linear light of each level, by ICC's two types of curve."""
    if data[:4] == b"curv":
        (count,) = struct.unpack_from(">I", data, 8)
        if count == 0:
            return np.asarray(levels, np.float64)
        table = np.frombuffer(data, ">u2", count, 12)
        if count == 1:
            return np.asarray(levels ** (table[0] / 256))
        return np.asarray(np.interp(levels, np.linspace(0, 1, count), table / 65535))
    if data[:4] != b"para":
        raise ValueError("no curve")
    (kind,) = struct.unpack_from(">H", data, 8)
    g, a, b, c, d, e, f = [*(np.frombuffer(data, ">i4", (1, 3, 4, 5, 7)[kind], 12) / 65536), *[0.0] * 6][:7]
    if kind == 0:
        return np.asarray(levels**g)
    if kind in (1, 2):
        d, e, f, c = -b / a, c, c, 0.0
    powered = np.maximum(a * levels + b, 0) ** g + e
    return np.asarray(np.where(levels >= d, powered, c * levels + f))

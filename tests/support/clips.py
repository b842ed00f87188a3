"""Small video files made through PyAV, and what is in a file as FFmpeg's demuxer and decoders see it."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from hasn_edge.video.transcode import VideoReport, upscale_video
from tests.support.fake_session import FakeSession

TB = Fraction(1, 90_000)
VFR = [0, 3000, 4500, 9000, 20_000, 21_000, 22_001, 30_000, 45_000, 48_003]
"""Irregular times, in units of TB."""


def planes_of(index: int, width: int, height: int, *, bits: int = 8, chroma: int = 2) -> list[np.ndarray]:
    """A smooth image with a moving bright block, as Y, U and V within limited range."""
    y, x = np.mgrid[0:height, 0:width]
    luma = 90 + 75 * x / width + 15 * np.sin(y / 5)  # inside the colours that RGB has
    left = (4 * index) % max(1, width - 12)
    luma[height // 4 : height // 2, left : left + 12] = 185
    v, u = np.mgrid[0 : -(-height // chroma), 0 : -(-width // chroma)] * chroma
    planes = [luma, 100 + 50 * u / width, 150 - 40 * v / height]
    return [np.rint(p * 2 ** (bits - 8)).astype(np.uint8 if bits == 8 else np.uint16) for p in planes]


def frame_of(planes: list[np.ndarray], pix_fmt: str) -> Any:
    """A frame with these planes."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pix_fmt)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((values.shape[0], plane.line_size), np.uint8)
        data = np.ascontiguousarray(values).view(np.uint8).reshape(values.shape[0], -1)
        rows[:, : data.shape[1]] = data
        padded = np.zeros(plane.buffer_size, np.uint8)
        padded[: rows.size] = rows.ravel()[: padded.size]
        plane.update(padded.tobytes())
    return frame


def planes_in(frame: Any) -> list[np.ndarray]:
    """The planes of a decoded planar frame."""
    bits = frame.format.components[0].bits
    out = []
    for component, plane in zip(frame.format.components, frame.planes, strict=False):
        values = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        values = values.view(np.uint8 if bits == 8 else np.uint16)
        out.append(values[: component.height, : component.width].astype(np.int64))
    return out


def make(
    path: Path,
    count: int = 10,
    *,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: list[int] | None = None,
    time_base: Fraction = TB,
    rate: Fraction | int = 30,
    options: dict[str, str] | None = None,
    tags: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    audio: str | None = None,
    images: list[list[np.ndarray]] | None = None,
    metadata: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    last: int | None = None,
) -> Path:
    """Write a clip.

    Args:
        tags: Range, matrix, primaries and transfer, in the numbers of H.273.
        audio: Codec of a track of noise as long as the images.
        container: Options of the muxer.
        last: How long the last image is shown, in units of ``time_base``.
    """
    options = {"crf": "12", "preset": "veryfast"} | (options or {}) if "264" in codec else options or {}
    if path.suffix in (".mp4", ".mov"):
        container = {"video_track_timescale": str(time_base.denominator)} | (container or {})
    bits = 10 if "10" in pix_fmt else 8
    chroma = 1 if "444" in pix_fmt else 2
    with av.open(str(path), "w", container_options=container or {}) as out:
        out.metadata.update(metadata or {})
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base
        context = stream.codec_context
        if tags is not None:
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        if aspect is not None:
            context.sample_aspect_ratio = aspect

        def write(encoded: list[Any]) -> None:
            for packet in encoded:
                if last is not None and packet.pts == (pts[-1] if pts else (count - 1) * step):
                    packet.duration = last
                out.mux(packet)

        step = round(1 / Fraction(rate) / time_base)
        track = out.add_stream(audio, rate=48_000) if audio else None
        if track is not None and audio.startswith("wma"):
            track.bit_rate = 128_000  # it has no default
        for index in range(count):
            planes = images[index] if images else planes_of(index, width, height, bits=bits, chroma=chroma)
            frame = frame_of(planes, pix_fmt)
            frame.pts, frame.time_base = (pts[index] if pts else index * step), time_base
            write(stream.encode(frame))
        if track is not None:
            noise = np.random.default_rng(0)
            for index in range(int(count / Fraction(rate) * 48_000) // 1024):
                samples = (0.1 * noise.normal(size=(2, 1024))).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
                piece.sample_rate, piece.pts, piece.time_base = 48_000, 1024 * index, Fraction(1, 48_000)
                out.mux(track.encode(piece))
            out.mux(track.encode(None))
        write(stream.encode(None))
    return path


def patch_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a, b, c, d (of 1, 0 and -1) into the display matrix of an MP4 file's first track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer and volume
    a, b, c, d = (value * 65_536 for value in matrix)
    for offset, value in enumerate((a, b, 0, c, d, 0, 0, 0, 1 << 30)):
        data[at + 4 * offset : at + 4 * offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))


def frames(path: Path) -> list[Any]:
    """Every frame that can be decoded."""
    decoded = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                decoded += packet.decode()
    return decoded


def times(path: Path) -> tuple[Fraction, list[int]]:
    """Time base and the times of all frames."""
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    return base, [frame.pts for frame in frames(path)]


def packets(path: Path, kind: str) -> list[tuple[Any, ...]]:
    """Times, durations, flags and bytes of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [
            (p.pts, p.dts, p.duration, p.is_keyframe, bytes(p), stream.time_base)
            for p in container.demux(stream)
            if p.size
        ]


def tags(path: Path) -> tuple[int, int, int, int]:
    """Range, matrix, primaries and transfer as the decoder has them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        next(container.decode(stream))
        context = stream.codec_context
        return context.color_range, context.colorspace, context.color_primaries, context.color_trc


def rgb_of(y: float, u: float, v: float, *, kr: float, kb: float, full: bool, bits: int = 8) -> np.ndarray:
    """The colour of Y'CbCr by the equations of ITU-T H.273, in [0, 1]."""
    unit = 2 ** (bits - 8)
    if full:
        luma, cb, cr = (
            y / (256 * unit - 1),
            (u - 128 * unit) / (256 * unit - 1),
            (v - 128 * unit) / (256 * unit - 1),
        )
    else:
        luma, cb, cr = (y / unit - 16) / 219, (u / unit - 128) / 224, (v / unit - 128) / 224
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    return np.clip([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], 0, 1)


def psnr(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> float:
    """In dB."""
    return float(10 * np.log10(peak**2 / max(1e-12, np.mean((a.astype(float) - b.astype(float)) ** 2))))


def upscale(source: Path, target: Path, session: FakeSession | None = None, **options: Any) -> VideoReport:
    """Upscale a video with a session that repeats pixels; twice as large where none is given."""
    return upscale_video(source, target, Upscaler(session or FakeSession(ModelSpec(scale=2))), **options)

"""Line art, text, facades and patterns drawn by the program: training images that need no licence.

Photographs hold little of what is drawn: black strokes on white, letters, screens of dots, repeated edges.
Every image here is a pure function of the seed, its number and the fonts, so a data set is reproduced by its
command. Shapes are drawn several times larger and reduced by averaging, which is what anti-aliasing is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hasn_edge.errors import InputError, counted, say, use
from hasn_edge.images.arrays import UInt8
from hasn_edge.images.codec import write_image
from hasn_edge.progress import Progress, Step, ignore

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

log = logging.getLogger(__name__)

_LARGER = 3  # drawn pixels for one of the image
_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"

Ink = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One image while it is drawn, at ``larger`` times its size."""

    random: np.random.Generator
    fonts: tuple[Path, ...]
    canvas: Image.Image
    pen: ImageDraw.ImageDraw
    paper: Ink
    ink: Ink

    @property
    def side(self) -> int:
        """Width and height of the canvas in drawn pixels."""
        return self.canvas.width

    def size(self, least: float, most: float) -> float:
        """Return a random length between two lengths of the finished image, small ones more often."""
        return float(_LARGER * least * (most / least) ** self.random.random())

    def point(self) -> Point:
        """Return a random position on the canvas, at times a little outside."""
        x, y = self.random.uniform(-0.1, 1.1, 2) * self.side
        return float(x), float(y)

    def colour(self) -> Ink:
        """Return a random colour."""
        red, green, blue = self.random.integers(256, size=3).tolist()
        return red, green, blue


def _words(random: np.random.Generator, count: int) -> str:
    """Return words of letters that are about as frequent as in English, with digits and punctuation."""
    weight = 1 / np.arange(2, len(_LETTERS) + 2)
    words = []
    for _ in range(count):
        word = "".join(random.choice(list(_LETTERS), random.integers(1, 10), p=weight / weight.sum()))
        style = random.random()
        if style < 0.12:
            word = str(random.integers(10 ** random.integers(1, 6)))
        elif style < 0.3:
            word = word.capitalize()
        elif style < 0.36:
            word = word.upper()
        words.append(word + (random.choice([",", ".", ";", "!", "?", ":"]) if random.random() < 0.15 else ""))
    return " ".join(words)


def _font(drawing: Drawing, pixels: float) -> Any:
    from PIL import ImageFont

    path = drawing.fonts[drawing.random.integers(len(drawing.fonts))]
    return ImageFont.truetype(str(path), max(6, round(pixels)))


def _lines(drawing: Drawing, box: tuple[float, float, float, float], pixels: float, fill: Ink) -> None:
    """Fill a box with lines of words in one font."""
    font, (left, top, right, bottom) = _font(drawing, pixels), box
    step = pixels * drawing.random.uniform(1.15, 1.7)
    while top + pixels < bottom:
        text = _words(drawing.random, max(1, int((right - left) / (2.5 * pixels))))
        while " " in text and font.getlength(text) > right - left:
            text = text[: text.rindex(" ")]
        drawing.pen.text((left, top), text, fill, font)
        top += step


def _curve(points: Sequence[Point], *, closed: bool) -> list[Point]:
    """Return a smooth line through points (Catmull-Rom), close enough to be drawn as straight pieces."""
    given = np.array(points)
    around = np.concatenate([given[-1:], given, given[:2]] if closed else [given[:1], given, given[-1:]])
    t = np.linspace(0, 1, 16, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        pieces.append(b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return [(float(x), float(y)) for x, y in np.concatenate(pieces)]


def _stroke(drawing: Drawing, line: Sequence[Point], width: float, fill: Ink) -> None:
    """Draw a line whose ends taper, as a pen leaves the paper."""
    for number, (start, end) in enumerate(pairwise(line)):
        taper = math.sin(math.pi * (number + 1) / len(line)) ** 0.4
        w = max(1.0, width * taper)
        drawing.pen.line([start, end], fill, round(w))
        drawing.pen.ellipse([end[0] - w / 2, end[1] - w / 2, end[0] + w / 2, end[1] + w / 2], fill)


def _blob(drawing: Drawing, centre: Point, radius: float) -> list[Point]:
    """Return a closed smooth outline around a centre."""
    count = int(drawing.random.integers(4, 10))
    angles = np.sort(drawing.random.uniform(0, 2 * math.pi, count))
    radii = radius * drawing.random.uniform(0.5, 1.3, count)
    corners = [
        (centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)
    ]
    return _curve(corners, closed=True)


def draw_text(drawing: Drawing) -> None:
    """Draw paragraphs in several sizes and fonts, in columns, some of them inverted."""
    top = 0.0
    while top < drawing.side:
        pixels = drawing.size(9, 90)
        height = pixels * drawing.random.uniform(1.5, 8)
        columns = int(drawing.random.integers(1, 4))
        width = drawing.side / columns
        for column in range(columns):
            paper, ink = drawing.paper, drawing.ink
            if drawing.random.random() < 0.15:
                paper, ink = ink, paper
                drawing.pen.rectangle([column * width, top, (column + 1) * width, top + height], paper)
            margin = drawing.size(2, 20)
            box = (column * width + margin, top + margin / 2, (column + 1) * width - margin, top + height)
            _lines(drawing, box, pixels, ink)
        top += height + drawing.size(2, 20)


def draw_strokes(drawing: Drawing) -> None:
    """Draw outlines filled with flat tones, tapering pen strokes and hatching, as in a comic."""
    for _ in range(drawing.random.integers(15, 60)):
        outline = _blob(drawing, drawing.point(), drawing.size(15, 220))
        fill = (drawing.paper, drawing.ink, drawing.colour())[drawing.random.choice(3, p=(0.6, 0.15, 0.25))]
        drawing.pen.polygon(outline, fill)
        _stroke(drawing, outline, drawing.size(1, 7), drawing.ink)
    for _ in range(drawing.random.integers(60, 250)):
        points = [drawing.point()]
        reach = drawing.size(15, 160)
        for _ in range(drawing.random.integers(2, 6)):
            dx, dy = drawing.random.normal(0, reach, 2)
            points.append((points[-1][0] + dx, points[-1][1] + dy))
        _stroke(drawing, _curve(points, closed=False), drawing.size(0.7, 6), drawing.ink)
    for _ in range(drawing.random.integers(10, 40)):
        _hatch(drawing)


def _hatch(drawing: Drawing) -> None:
    (x, y), angle = drawing.point(), drawing.random.uniform(0, math.pi)
    pitch, length, width = drawing.size(2.5, 9), drawing.size(20, 120), drawing.size(0.6, 2)
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    for n in range(int(drawing.random.integers(8, 50))):
        x0, y0 = x + n * pitch * across[0], y + n * pitch * across[1]
        end = length * drawing.random.uniform(0.8, 1.1)
        drawing.pen.line(
            [x0, y0, x0 + end * along[0], y0 + end * along[1]], drawing.ink, max(1, round(width))
        )


def draw_pattern(drawing: Drawing) -> None:
    """Draw grids, rays, rings, checks and bars: fine periods in every direction."""
    side = drawing.side
    for _ in range(drawing.random.integers(6, 16)):
        x, y = drawing.point()
        pitch, width = drawing.size(3, 24), drawing.random.uniform(0.2, 0.6)
        ink = drawing.ink if drawing.random.random() < 0.7 else drawing.colour()
        reach = drawing.random.uniform(0.15, 0.6) * side
        stroke = max(1, round(pitch * width))
        kind = drawing.random.integers(4)
        if kind == 0:  # bars or a grid, rotated
            angle = drawing.random.choice([0, math.pi / 2, drawing.random.uniform(0, math.pi)])
            for rotated in (angle, angle + math.pi / 2)[: drawing.random.integers(1, 3)]:
                c, s = reach * math.cos(rotated), reach * math.sin(rotated)
                for n in np.arange(-reach, reach, pitch):
                    px, py = x - n * math.sin(rotated), y + n * math.cos(rotated)
                    drawing.pen.line([px - c, py - s, px + c, py + s], ink, stroke)
        elif kind == 1:  # rays
            for angle in np.linspace(0, 2 * math.pi, max(8, int(reach / pitch)), endpoint=False):
                drawing.pen.line(
                    [x, y, x + reach * math.cos(angle), y + reach * math.sin(angle)], ink, stroke
                )
        elif kind == 2:  # rings
            for radius in np.arange(pitch, reach, pitch):
                drawing.pen.ellipse([x - radius, y - radius, x + radius, y + radius], None, ink, stroke)
        else:  # checks
            for row in range(int(reach / pitch)):
                for column in range(row % 2, int(reach / pitch), 2):
                    left, top = x + column * pitch, y + row * pitch
                    drawing.pen.rectangle([left, top, left + pitch, top + pitch], ink)


def draw_facade(drawing: Drawing) -> None:
    """Draw rows of windows with frames on a wall of bricks or plaster, seen from an angle."""
    from PIL import Image

    side, wall, frame, glass = drawing.side, drawing.colour(), drawing.colour(), drawing.colour()
    drawing.pen.rectangle([0, 0, side, side], wall)
    if drawing.random.random() < 0.5:
        height = drawing.size(4, 12)
        joint = tuple(max(0, value - 50) for value in wall)
        for row, y in enumerate(np.arange(0, side, height)):
            drawing.pen.line([0, y, side, y], joint, max(1, round(height / 6)))
            for x in np.arange(-height * (row % 2), side, 2.4 * height):
                drawing.pen.line([x, y, x, y + height], joint, max(1, round(height / 6)))
    width, height = drawing.size(18, 110), drawing.size(18, 130)
    gap = drawing.random.uniform(1.15, 1.8)
    bars, border = int(drawing.random.integers(1, 5)), max(1, round(drawing.size(1, 5)))
    for y in np.arange(height * 0.2, side, height * gap):
        for x in np.arange(width * 0.2, side, width * gap):
            shade = drawing.random.uniform(0.5, 1.2)
            pane = tuple(min(255, int(value * shade)) for value in glass)
            drawing.pen.rectangle([x, y, x + width, y + height], pane, frame, border)
            for bar in range(1, bars):
                drawing.pen.line(
                    [x + width * bar / bars, y, x + width * bar / bars, y + height], frame, border
                )
            drawing.pen.line([x, y + height / 2, x + width, y + height / 2], frame, border)
    near, far = drawing.random.uniform(0, 0.35, 2) / side
    pan, lean = drawing.random.uniform(-0.4, 0.4, 2)
    seen = drawing.canvas.transform(
        drawing.canvas.size,
        Image.Transform.PERSPECTIVE,
        (0.7, pan * 0.5, side * 0.1, lean * 0.5, 0.7, side * 0.1, near, far),
        Image.Resampling.BILINEAR,
        fillcolor=drawing.paper,
    )
    drawing.canvas.paste(seen)


def draw_halftone(drawing: Drawing) -> None:
    """Print a soft tone as dots of one pitch, as newspapers and comics do, with strokes on it."""
    from PIL import Image

    side = drawing.side
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    fx, fy, phase = drawing.random.uniform(1, 5, 3)
    tone = 0.5 + 0.45 * np.sin(x * (fx / side) + phase) * np.cos(y * (fy / side))
    pitch, angle = drawing.size(4, 11), drawing.random.choice([0, 15, 45, 75, drawing.random.uniform(0, 90)])
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    screen = (
        np.cos(2 * math.pi / pitch * (c * x + s * y)) + np.cos(2 * math.pi / pitch * (c * y - s * x))
    ) / 4 + 0.5
    dots = Image.fromarray(((screen < tone) * 255).astype(np.uint8))
    drawing.canvas.paste(drawing.ink, (0, 0), dots)
    for _ in range(drawing.random.integers(3, 12)):
        outline = _blob(drawing, drawing.point(), drawing.size(30, 180))
        drawing.pen.polygon(outline, drawing.paper if drawing.random.random() < 0.6 else drawing.colour())
        _stroke(drawing, outline, drawing.size(1, 6), drawing.ink)


def draw_chart(drawing: Drawing) -> None:
    """Draw axes with ticks and labels, and lines, bars or sectors."""
    side, columns = drawing.side, int(drawing.random.integers(2, 5))
    cell = side / columns
    for row in range(columns):
        for column in range(columns):
            x, y, length = column * cell + cell * 0.14, row * cell + cell * 0.1, cell * 0.76
            thin = max(1, round(drawing.size(0.7, 2.5)))
            font, ticks = _font(drawing, drawing.size(8, 20)), int(drawing.random.integers(4, 11))
            kind = drawing.random.integers(3)
            for tick in np.linspace(0, length, ticks):
                label = f"{drawing.random.uniform(0, 100):.{drawing.random.integers(3)}f}"
                if kind < 2:
                    drawing.pen.line([x, y + tick, x + length, y + tick], drawing.colour(), 1)
                    drawing.pen.line([x + tick, y + length, x + tick, y + length * 1.02], drawing.ink, thin)
                    drawing.pen.text((x + tick, y + length * 1.03), label, drawing.ink, font, anchor="mt")
                    drawing.pen.text((x - 6, y + tick), label, drawing.ink, font, anchor="rm")
            if kind == 0:
                for _ in range(drawing.random.integers(1, 6)):
                    steps = drawing.random.normal(0, 0.12, 40).cumsum()
                    heights = y + length * np.clip(0.5 + steps, 0, 1)
                    points = list(zip(np.linspace(x, x + length, 40), heights, strict=True))
                    drawing.pen.line(points, drawing.colour(), max(1, round(drawing.size(0.8, 4))))
            elif kind == 1:
                for tick in np.arange(x, x + length, length / (2 * ticks)):
                    top = y + length * drawing.random.random()
                    drawing.pen.rectangle(
                        [tick, top, tick + length / (3 * ticks), y + length], drawing.colour(), drawing.ink
                    )
            else:
                cuts = np.sort(drawing.random.uniform(0, 360, ticks)).tolist()
                for begin, end in zip(cuts, [*cuts[1:], cuts[0] + 360], strict=True):
                    box = [x, y, x + length, y + length]
                    drawing.pen.pieslice(box, begin, end, drawing.colour(), drawing.ink, thin)
            drawing.pen.line([x, y, x, y + length, x + length, y + length], drawing.ink, thin)


def draw_page(drawing: Drawing) -> None:
    """Draw a page of panels that hold the other kinds, with words in speech balloons."""
    side, rows = drawing.side, int(drawing.random.integers(2, 4))
    gutter = drawing.size(4, 14)
    contents = (draw_strokes, draw_strokes, draw_halftone, draw_pattern)
    for row in range(rows):
        columns = int(drawing.random.integers(1, 4))
        for column in range(columns):
            width, height = side / columns, side / rows
            panel = _blank(drawing.random, drawing.fonts, side, drawing.paper, drawing.ink)
            contents[drawing.random.integers(len(contents))](panel)
            box = (0, 0, round(width - gutter), round(height - gutter))
            place = (round(column * width + gutter / 2), round(row * height + gutter / 2))
            drawing.canvas.paste(panel.canvas.crop(box), place)
            edge = [*place, place[0] + box[2], place[1] + box[3]]
            drawing.pen.rectangle(edge, None, drawing.ink, max(1, round(drawing.size(1, 4))))
            pixels = drawing.size(10, 22)
            x, y = place[0] + width * 0.1, place[1] + height * 0.08
            balloon = [x, y, x + pixels * 9, y + pixels * 5]
            drawing.pen.ellipse(balloon, drawing.paper, drawing.ink, max(1, round(drawing.size(1, 3))))
            inside = (x + pixels * 1.6, y + pixels, x + pixels * 7.4, y + pixels * 4.6)
            _lines(drawing, inside, pixels, drawing.ink)


KINDS: dict[str, Callable[[Drawing], None]] = {
    "text": draw_text,
    "strokes": draw_strokes,
    "pattern": draw_pattern,
    "facade": draw_facade,
    "halftone": draw_halftone,
    "chart": draw_chart,
    "page": draw_page,
}
"""What can be drawn, by name."""


def _blank(random: np.random.Generator, fonts: tuple[Path, ...], side: int, paper: Ink, ink: Ink) -> Drawing:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (side, side), paper)
    return Drawing(
        random=random, fonts=fonts, canvas=canvas, pen=ImageDraw.Draw(canvas), paper=paper, ink=ink
    )


def find_fonts(folders: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the TrueType and OpenType fonts below ``folders``, sorted by file name.

    Without folders, those of the system are searched; where it has none, those that come with matplotlib.
    Damaged ones are left out with a warning.

    Raises:
        InputError: there is no font.
    """
    searched = [Path(folder) for folder in folders or _FONT_FOLDERS]
    found = {path.name: path for root in searched for path in root.rglob("*") if _is_text_font(path)}
    if not found and not folders:
        try:
            from matplotlib import get_data_path
        except ImportError:
            pass
        else:
            return find_fonts([Path(get_data_path()) / "fonts" / "ttf"])
    if not found:
        raise InputError(
            f"no .ttf or .otf font in {', '.join(map(str, searched))}",
            use(fonts="FOLDER"),
            say("install some, for example the package fonts-dejavu"),
        )
    return tuple(found[name] for name in sorted(found))


def _is_text_font(path: Path) -> bool:
    symbols = ("symbol", "emoji", "dingbats", "icons", "stix", "cmex", "cmsy")
    name = path.name.lower()
    if path.suffix.lower() not in (".ttf", ".otf") or any(word in name for word in symbols):
        return False
    return not name.startswith(".") and _draws(path)  # macOS puts "._NAME" beside a file that it copies


def _draws(path: Path) -> bool:
    from PIL import ImageFont

    try:  # each character: a font with damaged outlines opens, and fails where one is drawn
        ImageFont.truetype(str(path), 16).getmask(f"{_LETTERS}{_LETTERS.upper()}0123456789 ,.;!?:")
    except OSError as exc:
        log.warning("%s cannot be read as a font and is left out (%s)", path, exc)
        return False
    return True


def draw(kind: str, number: int, *, seed: int, side: int, fonts: Sequence[Path]) -> UInt8:
    """Draw one image.

    Args:
        kind: A key of :data:`KINDS`.
        number: Which image of the set.
        seed: Decides everything random, together with ``number``.
        side: Height and width in pixels.
        fonts: Font files for text.

    Returns:
        ``(side, side, 3)`` uint8 RGB.
    """
    from PIL import Image

    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, number]))
    paper: Ink = (255, 255, 255)
    ink: Ink = (0, 0, 0)
    if random.random() < 0.4:  # the others are black on white, as most of what is printed
        light, dark = random.integers(150, 256, 3), random.integers(0, 110, 3)
        first, second = (light, dark) if random.random() < 0.7 else (dark, light)
        paper, ink = tuple(first.tolist()), tuple(second.tolist())
    drawing = _blank(random, tuple(fonts), side * _LARGER, paper, ink)
    KINDS[kind](drawing)
    if random.random() < 0.3:
        drawing.canvas.paste(drawing.canvas.convert("L").convert("RGB"))
    return np.asarray(drawing.canvas.resize((side, side), Image.Resampling.BOX))


def synthesize(
    output: Path,
    *,
    images: int = 42,
    side: int = 1024,
    seed: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    fonts: Sequence[Path] = (),
    progress: Progress = ignore,
) -> tuple[Path, ...]:
    """Draw a set of images into a folder, the kinds in turn.

    Args:
        output: Folder; images are called ``NUMBER-KIND.png``.
        images: How many.
        side: Height and width of each in pixels.
        seed: Decides everything random. The same seed, fonts and version of Pillow give the same bytes.
        kinds: Keys of :data:`KINDS`.
        fonts: Folders of fonts; the system's by default.
        progress: Receives each image that begins.

    Returns:
        The files, in order. What was there under these names is replaced.

    Raises:
        InputError: no such kind, no font, a size that cannot be drawn, or ``output`` holds other files:
            images among them would become part of the set.
    """
    output = Path(output)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise InputError(f"no kind called {', '.join(unknown) or 'nothing'}; there are: {', '.join(KINDS)}")
    if not 64 <= side <= 4096 or images < 1:
        raise InputError(
            f"{counted(images, 'image')} of {side} pixels; expected at least 1, and 64 to 4096 pixels"
        )
    files = [output / f"{number:04}-{kinds[number % len(kinds)]}.png" for number in range(images)]
    others = {path for path in output.glob("*") if path.is_file()} - set(files)
    if others:
        raise InputError(
            f"{output} holds {len(others)} other files, first {min(others).name}; expected an empty folder",
            say("name another folder"),
        )
    found = find_fonts(fonts)
    for number, path in enumerate(files):
        progress(Step(f"drawing {path.name}", number, images))
        pixels = draw(kinds[number % len(kinds)], number, seed=seed, side=side, fonts=found)
        write_image(path, pixels)
    progress(Step("drawing", images, images))
    return tuple(files)

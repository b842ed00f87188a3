import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hasn_edge.cli import cli
from hasn_edge.data.prepare import prepare
from hasn_edge.data.synthesize import KINDS, draw, find_fonts, synthesize
from hasn_edge.errors import InputError


@pytest.fixture(scope="module")
def fonts():
    matplotlib = pytest.importorskip("matplotlib")
    return find_fonts([f"{matplotlib.get_data_path()}/fonts/ttf"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_function_of_seed_and_number_and_is_anti_aliased(kind, fonts):
    first = draw(kind, 3, seed=5, side=128, fonts=fonts)
    assert first.shape == (128, 128, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw(kind, 3, seed=5, side=128, fonts=fonts))
    assert not np.array_equal(first, draw(kind, 4, seed=5, side=128, fonts=fonts))
    assert not np.array_equal(first, draw(kind, 3, seed=6, side=128, fonts=fonts))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 4


@pytest.mark.slow
def test_drawn_images_hold_more_fine_detail_than_a_photograph(fonts):
    """Judged by Pillow: what a reduction to a quarter and back loses, against scikit-image's photograph."""
    skimage = pytest.importorskip("skimage.data")

    def lost(pixels):
        image = Image.fromarray(pixels).convert("L").crop((0, 0, 128, 128))
        back = image.resize((32, 32), Image.Resampling.BICUBIC).resize((128, 128), Image.Resampling.BICUBIC)
        return np.abs(np.asarray(image, float) - np.asarray(back, float)).mean()

    drawn = [lost(draw(kind, n, seed=1, side=128, fonts=fonts)) for kind in KINDS for n in range(3)]
    assert np.mean(drawn) > 2 * lost(skimage.astronaut())


def test_a_set_takes_the_kinds_in_turn_and_can_be_prepared(tmp_path, fonts):
    steps = []
    files = synthesize(
        tmp_path / "drawn", images=3, side=192, kinds=("text", "chart"), fonts=[fonts[0].parent],
        progress=steps.append,
    )  # fmt: skip
    assert [path.name for path in files] == ["0000-text.png", "0001-chart.png", "0002-text.png"]
    assert [(step.done, step.total) for step in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    expected = draw("chart", 1, seed=0, side=192, fonts=fonts)
    with Image.open(files[1]) as written:
        assert np.array_equal(np.asarray(written), expected)
    report = prepare([tmp_path / "drawn"], tmp_path / "prepared")
    assert (report.images, report.made_lr) == (3, 3)


def test_what_cannot_be_drawn_is_refused(tmp_path, fonts):
    with pytest.raises(InputError, match="no kind called maps; there are: text, strokes"):
        synthesize(tmp_path / "a", kinds=["maps"])
    with pytest.raises(InputError, match="8 pixels; expected"):
        synthesize(tmp_path / "a", side=8)
    with pytest.raises(InputError, match=r"no \.ttf or \.otf font in .*empty"):
        synthesize(tmp_path / "a", fonts=[tmp_path / "empty"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InputError, match="1 other files, first photo.jpg; expected an empty folder"):
        synthesize(tmp_path)


def test_damaged_fonts_are_left_out(tmp_path, fonts, caplog):
    whole = next(path for path in fonts if path.name == "DejaVuSans.ttf").read_bytes()
    (tmp_path / "fonts" / "folder.ttf").mkdir(parents=True)
    outlines = whole[:60_000] + b"\xff" * 500_000 + whole[560_000:]
    contents = {"a": whole, "b": outlines, "c": whole[:60_000], "d": b"no font", "._a": b"\0\5\x16\7"}
    for name, content in contents.items():
        (tmp_path / "fonts" / f"{name}.ttf").write_bytes(content)
    assert [path.name for path in find_fonts([tmp_path / "fonts"])] == ["a.ttf"]
    left_out = [record.args[0].stem for record in caplog.records]
    assert sorted(left_out) == ["b", "c", "d", "folder"]


def test_the_command(tmp_path, fonts):
    arguments = ["data", "synthesize", "-o", str(tmp_path / "set"), "--images", "2", "--side", "64"]
    result = CliRunner().invoke(cli, [*arguments, "--fonts", str(fonts[0].parent), "--seed", "9"])
    assert result.exit_code == 0, result.output
    assert "2 images of 64 x 64 pixels, seed 9" in result.output
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["0000-text.png", "0001-strokes.png"]

"""What benchmarks leave: a page and its figures, and on which machine by which command they came to be."""

from __future__ import annotations

import datetime
import json
import sys

from tests.support.scripts import load_script

MACHINE = {"cpu": "a CPU", "vector units": "avx2"}


def test_a_page_is_printed_and_lies_beside_its_figures(tmp_path, capsys):
    files = load_script("benchmarks/result_files.py")
    files.publish("# Page\n", None, "net")
    files.publish("# Page\n", tmp_path, "net_202611", {"ms": [1.5]})
    files.publish("# Alone\n", tmp_path, "alone")
    assert capsys.readouterr().out == "# Page\n\n# Page\n\n# Alone\n\n"
    assert json.loads((tmp_path / "net_202611.json").read_text()) == {"ms": [1.5]}
    written = {path.name: path.read_text() for path in tmp_path.glob("*.md")}
    assert written == {"net_202611.md": "# Page\n", "alone.md": "# Alone\n"}
    assert not (tmp_path / "alone.json").exists()


def test_a_page_ends_with_the_machine_and_the_command(monkeypatch):
    files = load_script("benchmarks/result_files.py")
    typed = [
        "/home/me/benchmarks/soak.py",
        "--source",
        "a clip.mp4",
        "--data",
        "Set5=/home/me/Set5",
        "-o",
        ".",
    ]
    monkeypatch.setattr(sys, "argv", [*typed, "--url", "rtsp://camera/stream", "--data", "Set14=Set14"])
    today = datetime.date.today()
    assert files.origin(machine=MACHINE) == [
        "Machine: cpu a CPU; vector units avx2.",
        "Printed by `python benchmarks/soak.py --source 'a clip.mp4' --data Set5=Set5 -o . "
        f"--url rtsp://camera/stream --data Set14=Set14` on {today}.",
    ]
    assert files.origin("x.py --model net", MACHINE)[1] == f"Printed by `python x.py --model net` on {today}."

"""The doctor's findings on this machine and on machines that are described."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from hasn_edge.cli import cli, terminal
from hasn_edge.doctor import environment as view
from hasn_edge.doctor import report as doctor
from hasn_edge.doctor.environment import Machine
from hasn_edge.doctor.report import State, can_do, diagnose, facts, find_traps, honest_state, look
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.model import zoo
from tests.doctor.test_libraries import shared_object

ORIN = GpuFacts(
    name="Orin",
    compute_capability="8.7",
    total_memory_bytes=7_990_000_000,
    driver="540.4.0",
    cuda="12.6",
    integrated=True,
    l4t="36.4.3",
    sm_count=8,
)
ALL = ("torch", "onnx", "onnxruntime", "safetensors", "cuda", "tensorrt")


def machine(*names: str, **changes) -> Machine:
    return Machine(modules={name: Path("/site") / name for name in names}, **changes)


def by_name(found) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in found}


def abilities(machine: Machine) -> dict[str, tuple[bool, str]]:
    return {what: (can, cure) for what, can, cure in can_do(machine)}


@pytest.fixture
def jetson(orin_nano) -> Machine:
    return machine(
        *ALL, root=orin_nano, python=(3, 10), driver=True, gpu=ORIN, memory_bytes=7_990_000_000,
        jetson=Jetson(orin_nano).facts().values, versions={"tensorrt": "10.3.0"}, engines=orin_nano,
    )  # fmt: skip


def test_everything_missing_has_a_cure():
    for finding in diagnose():
        assert finding.detail
        if finding.state is State.MISSING:
            assert finding.cure


def test_a_missing_package_is_named_with_its_extra():
    bare = machine("onnxruntime")
    found = by_name(facts(bare))
    assert found["torch"].state is State.MISSING
    assert found["torch"].cure == "pip install 'hasn-edge[export]'"
    assert found["TensorRT for RTX"].cure == "pip install 'hasn-edge[rtx]'"
    can = abilities(bare)
    assert can["export ONNX and TorchScript"] == (False, "pip install 'hasn-edge[export]'")
    assert can["run .onnx files and the bundled model on the CPU"][0]


def test_slow_int8_is_announced(monkeypatch):
    monkeypatch.setattr(host, "vector_units", lambda: ("avx2",))
    assert by_name(facts(Machine()))["INT8 on this CPU"].state is State.WARNING
    monkeypatch.setattr(host, "vector_units", lambda: ("avx2", "avx512_vnni"))
    assert by_name(facts(Machine()))["INT8 on this CPU"].state is State.INFO


def test_engines_are_not_promised_without_what_they_need(jetson):
    assert abilities(jetson)["run engines"] == (True, "")
    assert abilities(jetson)["build TensorRT engines for the GPU here"] == (True, "")
    for lack, said in (
        (replace(jetson, gpu=None), "an NVIDIA GPU with its driver"),
        (machine("cuda", gpu=ORIN), "TensorRT"),
        (machine("tensorrt", gpu=ORIN), "pip install 'cuda-python>=12,<13'"),
        (replace(jetson, missing=(view.Missing("libnvdla_compiler.so", "libnvinfer.so"),)), "TensorRT"),
    ):
        assert abilities(lack)["run engines"] == (False, said)
    can, said = abilities(machine())["build TensorRT engines for the GPU here"]
    assert not can
    assert said == "an NVIDIA GPU with its driver, TensorRT, pip install 'hasn-edge[export]'"


def test_a_jetson(jetson):
    found = by_name(facts(jetson))
    assert "JetPack 6.2" in found["Jetson"].detail
    assert "Jetson Linux 36.4.3" in found["Jetson"].detail
    profile = found["device profile"].detail
    assert profile.startswith("this is a Jetson Orin Nano 8GB Super")
    assert profile.endswith("hasn-edge build --target orin-nano-super")
    assert found["DLA"].detail == "not used: none on this module"
    assert "7.4 GiB shared with the CPU" in found["GPU"].detail
    assert "TensorRT for RTX" not in found
    assert "onnxsim" not in found, "pip has none for this Python"
    assert "build TensorRT for RTX engines (no GPU needed)" not in abilities(jetson)


def test_a_module_with_less_memory_is_not_taken_for_the_other(jetson):
    small = replace(jetson, memory_bytes=int(3.4 * 2**30))
    found = by_name(facts(small))["device profile"]
    assert found.detail.startswith(
        "this is a Jetson Orin Nano 4GB (10 W); hasn-edge build --target orin-nano-4gb"
    )
    other = replace(jetson, memory_bytes=int(15.2 * 2**30))
    found = by_name(facts(other))["device profile"]
    assert found.state is State.INFO
    assert found.detail.startswith(
        "the nearest is Jetson Orin Nano 8GB Super (MAXN SUPER), and this one has 15.2"
    )
    assert "this is a" not in found.detail


def test_a_device_without_a_profile():
    card = replace(ORIN, name="NVIDIA H200", compute_capability="9.0", integrated=False, l4t=None)
    assert by_name(facts(machine(gpu=card)))["device profile"].state is State.INFO
    assert "device profile" not in by_name(facts(Machine()))


def test_bundled_models_say_their_honest_state():
    found = by_name(facts(Machine()))[f"{zoo.DEFAULT_MODEL} (default)"]
    assert found.detail == honest_state(zoo.bundled_provenance(zoo.DEFAULT_MODEL))
    assert "63 photographs" in found.detail
    assert "the paper's x4 network 32.17 dB on Set5" in found.detail


def test_tables_and_json_say_the_same():
    tables = CliRunner().invoke(cli, ["doctor"])
    content = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert tables.exit_code == 0
    here = look()
    assert [finding["name"] for finding in content["findings"]] == [f.name for f in facts(here)]
    assert [trap["name"] for trap in content["traps"]] == [trap.name for trap in find_traps(here)]
    assert [item["what"] for item in content["can"]] == [what for what, _, _ in can_do(here)]
    for finding in content["findings"]:
        assert finding["name"].split()[0] in tables.output


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_the_terminal(jetson, monkeypatch, width):
    monkeypatch.setattr(doctor, "look", lambda **_: replace(jetson, modules={}, swaps=()))
    monkeypatch.setattr(terminal, "console", lambda: Console(width=width))
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert max(map(len, output.splitlines())) <= width
    text = " ".join(output.split())
    assert "Known traps that it is in" in text
    for trap in ("swap", "clocks", "tensorrt"):
        assert trap in text
    assert "cure: sudo apt install python3-libnvinfer" in text
    assert "pip install 'hasn-edge[export]'" in text, "brackets are not taken for markup"


def test_no_traps_are_announced(monkeypatch):
    monkeypatch.setattr(doctor, "look", lambda **_: Machine(root=Path("/nowhere"), engines=Path("/nowhere")))
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert "in none of the known traps" in output
    assert "Known traps that" not in output


def test_engines_of_another_folder(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(doctor, "look", lambda **given: seen.append(given) or Machine(root=tmp_path))
    CliRunner().invoke(cli, ["doctor", "--engines", str(tmp_path)])
    assert seen == [{"engines": tmp_path}]


class TestLook:
    def test_here(self):
        here = look()
        assert here.python >= (3, 10)
        assert here.modules["onnxruntime"].is_dir()
        assert here.versions["numpy"].count(".") >= 1
        assert here.opencv_build is None or "GStreamer" in here.opencv_build
        assert here.memory_bytes > 0

    def test_a_version_that_no_package_states(self, tmp_path):
        (tmp_path / "__init__.py").write_text('import x\n__version__ = "10.3.0"\n')
        assert view._stated_version(tmp_path) == "10.3.0"
        assert view._stated_version(tmp_path / "absent") is None

    def test_opencv_that_cannot_be_imported(self, monkeypatch, tmp_path):
        (tmp_path / "python").write_text(
            "#!/bin/sh\necho Traceback >&2\necho 'ImportError: libGL.so.1' >&2\nexit 1\n"
        )
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(view.sys, "executable", str(tmp_path / "python"))
        assert view._opencv_build() == "error: ImportError: libGL.so.1"
        monkeypatch.setattr(view.sys, "executable", str(tmp_path / "absent"))
        assert view._opencv_build().startswith("error: ")

    def test_swaps(self, tmp_path):
        path = tmp_path / "swaps"
        path.write_text(
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
            "/dev/zram0                              partition\t649720\t\t0\t\t5\n"
            "/swapfile                               file\t\t8388604\t\t12\t\t-2\n"
        )
        assert view._swaps(path) == (("/dev/zram0", 649720 * 1024), ("/swapfile", 8388604 * 1024))
        assert view._swaps(tmp_path / "absent") == ()

    def test_wheels_bring_their_libraries(self, tmp_path):
        site = tmp_path / "site-packages"
        (site / "tensorrt").mkdir(parents=True)
        shared_object(site / "tensorrt_bindings/tensorrt.so", needs=["libnvinfer.so.10"])
        modules = {"tensorrt": site / "tensorrt"}
        assert [lack.name for lack in view._missing(modules, tmp_path)] == ["libnvinfer.so.10"]
        shared_object(site / "tensorrt_libs/libnvinfer.so.10", needs=["libcudart.so.12"])
        assert [lack.name for lack in view._missing(modules, tmp_path)] == ["libcudart.so.12"]
        shared_object(site / "nvidia/cuda_runtime/lib/libcudart.so.12")
        assert view._missing(modules, tmp_path) == ()
        assert view._missing({}, tmp_path) == ()

    def test_system_packages(self, tmp_path):
        for place in (
            "python3.10/dist-packages/tensorrt",
            "python3/dist-packages/cv2",
            "python3.12/site/tensorrt",
        ):
            (tmp_path / "usr/lib" / place).mkdir(parents=True)
        here = Machine(root=tmp_path, python=(3, 11))
        assert set(here.system_packages("tensorrt")) == {(3, 10)}
        assert set(here.system_packages("cv2")) == {(3, 11)}


def test_machine_facts():
    found = host.describe_host()
    assert found["python"].count(".") == 2
    assert int(found["cores"]) >= 1
    assert host.memory_bytes() > host.available_memory_bytes() > 0
    assert host.peak_memory_bytes() > 10_000_000

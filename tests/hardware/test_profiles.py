"""Device profiles: strict to read, a source for every figure, rates that the makers' own totals confirm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hasn_edge.engine.target import EngineRuntime, load_target, shipped_targets
from hasn_edge.errors import ConfigError, UnsupportedError
from hasn_edge.files import shipped_path
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.profiles import DeviceProfile, Versions
from hasn_edge.spec import Precision

BOARDS = {name for name in shipped_targets() if "[device]" in shipped_targets()[name].read_text()}

SAID_BY_THE_MAKER = {
    # Dense TOPS in INT8 and TFLOPS in FP32 as the data sheets and white papers state them.
    "orin-nano": (20, 1.28),
    "orin-nano-super": (33, 2.09),
    "orin-nano-4gb": (10, 0.64),
    "orin-nx": (30, 1.88),
    "orin-nx-8gb": (25, 1.57),
    "agx-orin": (85, 5.3),
    "agx-orin-32gb": (54, 3.37),
    "agx-xavier": (22, 1.4),
    "thor": (517, 8.064),
    "rtx-2080-ti": (215.2, 13.4),
    "rtx-3060": (101, 12.74),  # its 101 TFLOPS are of FP16, sparse: as many as INT8, dense
    "rtx-3080": (238, 29.8),
    "rtx-4060": (120.9, 15.11),
    "rtx-4070": (233, 29.1),  # 466 AI TOPS, sparse
    "rtx-4090": (660.6, 82.6),
    "rtx-5070": (247, 30.87),  # 988 AI TOPS in FP4, sparse
    "rtx-5090": (838, 104.8),
    "l4": (242.5, 30.3),  # 485 TOPS, sparse
    "t4": (130, 8.1),
    "a2": (36, 4.5),
}


def profile(name: str) -> DeviceProfile:
    device = load_target(name).device
    assert device is not None
    return device


@pytest.mark.slow
def test_the_boards_that_ship():
    assert {"xavier-nx", *SAID_BY_THE_MAKER} == BOARDS
    for name in BOARDS:
        target = load_target(name)
        assert target.runtime is EngineRuntime.TENSORRT
        assert target.shapes.size == (180, 320)
        assert hash(target)
        assert (profile(name).jetpack is None) is not profile(name).integrated
        assert (
            "unsuitable" in profile(name).dla or "none on" in profile(name).dla or "no " in profile(name).dla
        )


@pytest.mark.parametrize("name", sorted(SAID_BY_THE_MAKER))
def test_rates_are_the_makers(name):
    int8_tops, fp32_tflops = SAID_BY_THE_MAKER[name]
    device = profile(name)
    tensor, cuda = device.tensor_cores_macs_per_s, device.cuda_cores_macs_per_s
    assert 2 * tensor.int8 / 1e12 == pytest.approx(int8_tops, rel=0.035)
    assert 2 * cuda.fp32 / 1e12 == pytest.approx(fp32_tflops, rel=0.015)
    assert tensor.fp16 == pytest.approx(tensor.int8 / 2, rel=1e-4)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_rates_are_multiprocessors_times_clock(name):
    device = profile(name)
    per_clock = {
        "7.2": (64, 512), "7.5": (64, 512), "8.6": (128, 512), "8.7": (128, 1024),
        "8.9": (128, 512), "11.0": (128, 4096), "12.0": (128, 512),
    }[device.compute_capability]  # fmt: skip
    cycles = device.sm_count * device.clock_hz
    assert device.cuda_cores_macs_per_s.fp32 == pytest.approx(per_clock[0] * cycles, rel=1e-4)
    assert device.tensor_cores_macs_per_s.fp16 == pytest.approx(per_clock[1] * cycles, rel=1e-4)


@pytest.mark.parametrize("name", sorted(name for name in BOARDS if profile(name).integrated))
def test_a_boards_title_names_the_mode_that_its_rates_are_for(name):
    """Orin NX at 25 W has 408 MHz, and its rates are of 918 MHz, MAXN."""
    device = profile(name)
    mode = device.power_modes[-1].name
    written = mode[:-1] + " W" if mode.endswith("W") else mode
    assert device.title.endswith(f"({written})")


def test_units_are_chosen_as_kernels_are():
    device = profile("orin-nano")
    assert device.rate(Precision.INT8, tensor_cores=True) == (10.24e12, "tensor cores")
    assert device.rate(Precision.FP16, tensor_cores=False) == (640e9, "CUDA cores")
    assert device.rate(Precision.FP32, tensor_cores=True) == (640e9, "CUDA cores")


def test_versions():
    orin = Versions(first="8.5", last="10.16")
    assert "10.16.2" in orin
    assert "8.5.2" in orin
    assert "8.4" not in orin
    assert "10.17" not in orin
    assert "11.0" not in orin
    assert "10.3" in orin
    assert "12.1" in Versions(first="10.8")
    assert str(orin) == "8.5 to 10.16"
    assert str(Versions(first="10.8")) == "10.8 and newer"
    assert str(Versions(first="8.5", last="8.5")) == "8.5"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_hz = 625e6\n", "", "missing key device.clock_hz"),
        ("sm_count = 8", "sm_count = 0", "sm_count is 0; expected more than 0"),
        ("sm_count = 8", "sm_counts = 8", "unknown key device.sm_counts; did you mean device.sm_count"),
        ("fp32 = 640e9, ", "", "cuda_cores_macs_per_s.fp32 is missing"),
        ("fp32 = 640e9", "fp32 = 0", "fp32 is 0.0; expected a rate above 0"),
        ('compute_capability = "8.7"', 'compute_capability = "87"', "compute_capability is '87'"),
        ('memory_bytes = "', 'memories_bytes = "', "sources: nothing for memory_bytes"),
        ('\ndla = "NVIDIA', '\nbla = "x"\ndla = "NVIDIA', "sources: bla is no figure"),
        (
            'first = "5.1", last = "7.2"',
            'first = "7.3", last = "7.2"',
            "last is '7.2', which is before first",
        ),
        ('first = "5.1", last = "7.2"', 'first = "new"', "first is 'new'; expected a version"),
    ],
)
def test_a_wrong_profile_is_named_with_its_mistake(tmp_path: Path, old: str, new: str, message: str):
    text = shipped_path("engines", "targets", "orin-nano.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"wrong.toml: .*{message}"):
        load_target(path)


def facts(capability: str) -> GpuFacts:
    return GpuFacts(
        name="GPU", compute_capability=capability, total_memory_bytes=8 << 30, driver=None, cuda="12.6",
        integrated=True, l4t=None, sm_count=8,
    )  # fmt: skip


def test_a_board_is_built_for_on_such_a_board_only():
    nano = load_target("orin-nano")
    nano.require_gpu(facts("8.7"))
    load_target("tensorrt").require_gpu(facts("8.9"))
    load_target("rtx").require_gpu(None)
    with pytest.raises(
        UnsupportedError, match=r"'orin-nano' is NVIDIA Jetson Orin Nano .* the GPU here is GPU"
    ):
        nano.require_gpu(facts("8.9"))
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU .* target='portable'.* estimate='orin-nano'"):
        nano.require_gpu(None)


def test_an_engine_for_other_gpus_is_refused_on_a_jetson(tmp_path):
    """NVIDIA's developer guide: hardware compatibility is not supported on JetPack."""
    text = shipped_path("engines", "targets", "orin-nano.toml").read_text(encoding="utf-8")
    path = tmp_path / "wide.toml"
    path.write_text(f'hardware_compatibility = "ampere_plus"\n{text}')
    with pytest.raises(ConfigError, match=r"wide\.toml: .* no hardware_compatibility on a Jetson.*Orin Nano"):
        load_target(path)
    path.write_text('runtime = "tensorrt"\nhardware_compatibility = "same_compute_capability"')
    wide = load_target(path)
    wide.require_gpu(facts("8.9"))  # shares the CPU's memory and is no Jetson
    with pytest.raises(UnsupportedError, match="on a Jetson, and this is one; leave .* unset"):
        wide.require_gpu(replace(facts("8.7"), l4t="36.4.3"))

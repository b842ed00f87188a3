"""Boards as JetPack leaves them, from recorded facts, and what commands that doctor advises change there.

Each fact has its source; NAME#N is an issue or pull request on GitHub. What no source states and no check
asks for is "unknown". A command that the model does not know fails the test.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from hasn_edge.doctor.environment import Environment, MissingLibrary, jetson_facts
from hasn_edge.errors import Cure, NoCudaError, shell
from hasn_edge.hardware.gpu import cuda_python_install, l4t_release
from tests.support import boards
from tests.support.environments import ORIN

DOCS = Path(__file__).parents[2] / "docs" / "jetson.md"


@dataclass(frozen=True)
class JetPack:
    """What one JetPack has. L4T, CUDA, TensorRT and Python: NVIDIA's release notes of each, as
    dusty-nv/jetson-containers (jetson_containers/l4t_version.py) and roboflow/inference#2478 repeat them."""

    name: str
    release: str
    """First line of /etc/nv_tegra_release."""
    kernel: str
    python: tuple[int, int]
    cuda: str
    tensorrt: str
    numpy: str
    """Ubuntu's python3-numpy: 22.04 has 1.21.5, 24.04 has 1.26.4."""
    model: str
    modes: str
    target: str


OLD_MODES = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n"
JETPACKS = (
    JetPack(
        name="6.0", release="# R36 (release), REVISION: 3.0, GCID: 36106755, BOARD: generic", python=(3, 10),
        kernel="5.15.136-tegra", cuda="12.2", tensorrt="8.6.2", numpy="1.21.5", modes=OLD_MODES,
        model="NVIDIA Jetson Orin Nano Developer Kit", target="orin-nano",
    ),
    JetPack(  # the model and release: Osmantic/ODS#1479
        name="6.2", release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", python=(3, 10),
        kernel="5.15.148-tegra", cuda="12.6", tensorrt="10.3.0", numpy="1.21.5", modes=boards.ORIN_MODES,
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", target="orin-nano-super",
    ),
    JetPack(  # CUDA, TensorRT: OE4T/meta-tegra#2224 and #2240; on an Orin Nano: wyoming-whisper-trt#1038
        name="7.2", release="# R39 (release), REVISION: 2.0, GCID: unknown, BOARD: generic", python=(3, 12),
        kernel="6.8.12-1014-tegra", cuda="13.2", tensorrt="10.16.2.10", numpy="1.26.4",
        modes=boards.ORIN_MODES, target="orin-nano-super",
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    ),
)  # fmt: skip

WHEELS = {
    # On PyPI for aarch64, November 2026, by Python: as pip --dry-run resolved them. The newest is last.
    "cuda-python": {"3.10": ("12.2.1", "12.6.2.post1", "12.9.2", "13.4.4"), "3.12": ("13.0.1", "13.4.4")},
    "cuda-bindings": {"3.10": ("12.6.2.post1", "12.9.2", "13.4.4"), "3.12": ("13.0.1", "13.4.4")},
    "torch": {"3.10": ("2.10.0", "2.14.1"), "3.12": ("2.14.1",)},
    "numpy": {"3.10": ("1.26.4", "2.2.6"), "3.12": ("1.26.4", "2.4.6")},
    "tensorrt-cu13": {"3.10": ("11.4.0",), "3.12": ("11.4.0",)},
}
OTHERS = "1.0"
"""Version of packages of which it does not matter."""
SERVER_TORCH = Version("2.11")
"""From here on PyTorch's wheels for ARM bring CUDA 13 (2.98 GB on JetPack 6), cuda-bindings too."""
HASN_EDGE = ("numpy", "onnxruntime", "opencv-python-headless", "pillow")
ON_BOARD = "on the board, outside the container"


@dataclass
class Board:
    """One board or a container on it, which commands change."""

    jetpack: JetPack
    root: Path
    container: bool = False
    gpu_in_container: bool = True
    sees_system: bool = True
    """This Python finds the system's packages."""
    python: tuple[int, int] = (0, 0)
    apt: set[str] = field(default_factory=set)
    """Of the system or the image, as far as they matter. Neither has python3-venv: Ubuntu's does not."""
    fresh_lists: bool = False
    """apt-get update was run; images come without lists of packages."""
    pip: dict[str, str] = field(default_factory=dict)
    mode: int = 1
    locked: bool = False
    swap_file: bool = False
    lacks: tuple[MissingLibrary, ...] = ()
    built: str | None = None

    def __post_init__(self) -> None:
        self.python = self.python if self.python[0] else self.jetpack.python

    @property
    def answers(self) -> bool:
        """Whether the GPU can be used."""
        return not self.container or self.gpu_in_container

    def environment(self) -> Environment:
        """Return what doctor collects here, derived from the files as on a machine."""
        self._files()
        root, cuda = self.root, self.jetpack.cuda
        l4t = l4t_release(root, cuda=cuda if self.answers else None)
        gpu = replace(ORIN, cuda=cuda, driver=None, l4t=l4t) if self.answers else None
        dist, site = self._dist(), root / "home/user/.venv/lib/site-packages"
        modules: dict[str, Path] = {}
        versions = {name: version for name, version in self.pip.items() if version != OTHERS}
        if self.sees_system:
            versions.setdefault("numpy", self.jetpack.numpy)
            modules |= {name: dist / name for name in ("tensorrt", "cv2") if (dist / name).exists()}
            if "tensorrt" in modules:
                versions["tensorrt"] = self.jetpack.tensorrt
        names = {"opencv-python-headless": "cv2", "pillow": "PIL", "tensorrt-cu13": "tensorrt"}
        modules |= {names.get(name, name): site / names.get(name, name) for name in self.pip}
        if "tensorrt-cu13" in self.pip:
            versions["tensorrt"] = self.pip["tensorrt-cu13"]
        if "torch" in self.pip:
            (site / "torch").mkdir(parents=True, exist_ok=True)
            built = "'13.0'" if Version(self.pip["torch"]) >= SERVER_TORCH else "None"
            (site / "torch/version.py").write_text(f"cuda: Optional[str] = {built}\n")
        cuda_name, error = self._cuda(gpu)
        own_cv2 = "opencv-python-headless" not in self.pip
        broken = "cv2" in modules and own_cv2 and Version(versions["numpy"]) >= Version("2")
        stated = f"GStreamer: {'YES' if own_cv2 else 'NO'}\nFFMPEG: YES\nv4l/v4l2: YES\n"
        return Environment(
            root=root, container=self.container, python=self.python, modules=modules, versions=versions,
            missing_libraries=self.lacks if "tensorrt" in modules else (),
            opencv_build=stated if "cv2" in modules and not broken else None,
            opencv_error="ImportError: numpy.core.multiarray failed to import" if broken else None,
            driver=not self.container or self.gpu_in_container or "libcuda" in self.apt, gpu=gpu,
            cuda=cuda_name, cuda_error=error, jetson=jetson_facts(root, gpu), memory_bytes=7_990_000_000,
            swaps=(("/dev/zram0", 3 << 30), *((("/swapfile", 8 << 30),) if self.swap_file else ())),
            engines=root / "engines",
        )  # fmt: skip

    def _files(self) -> None:
        """Write what doctor reads of this state."""
        gpu = "sys/class/devfreq/17000000.gpu"
        files = {
            "proc/sys/kernel/osrelease": self.jetpack.kernel,
            **{f"{gpu}/{name}": "1020000000" for name in ("cur_freq", "max_freq")},
            f"{gpu}/min_freq": "1020000000" if self.locked else "306000000",
            f"{gpu}/governor": "nvhost_podgov",
        }
        if not self.container:  # Docker hides the device tree: ultralytics/ultralytics#18449, jetson-gpio#73
            files |= {
                "proc/device-tree/model": self.jetpack.model,
                "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
                "etc/nv_tegra_release": self.jetpack.release,
                "etc/nvpmodel.conf": self.jetpack.modes,
                "var/lib/nvpmodel/status": f"pmode:{self.mode:04}",
            }
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        for package, module in (("python3-libnvinfer", "tensorrt"), ("python3-opencv", "cv2")):
            if package in self.apt:
                (self._dist() / module).mkdir(parents=True, exist_ok=True)

    def _dist(self) -> Path:
        return self.root / f"usr/lib/python3.{self.jetpack.python[1]}/dist-packages"

    def _cuda(self, gpu) -> tuple[str | None, NoCudaError | None]:
        """Start CUDA: before JetPack 7.2 the driver takes no newer CUDA (error 35: jetpack-nixos#328)."""
        if gpu is None:
            return None, None
        have = Version(self.pip.get("cuda-bindings", self.pip.get("cuda-python", "0")))
        driver = Version(gpu.cuda)
        new = have.release[:2] > driver.release[:2] if driver.major == 12 else have.major > driver.major
        if "cuda-python" in self.pip and not new:
            return "cuda-python", None
        if "torch" in self.pip and driver.major == 13:
            return "torch", None
        return None, NoCudaError("none of the three works here", shell(cuda_python_install(gpu)))

    def follow(self, step: Cure) -> bool:
        """Type what is advised; return whether it succeeded."""
        if step.action == "call":
            self.built = step.arguments["target"]
            return True
        where = step.arguments.get("where", "")
        assert where in ("", ON_BOARD, "outside the container")
        return self.type(step.text, outside=bool(where))

    def type(self, command: str, *, outside: bool = False) -> bool:
        """Run one line of a shell."""
        if command.startswith("pip freeze | grep -i ^tensorrt"):
            self.pip = {name: v for name, v in self.pip.items() if not name.startswith("tensorrt")}
            _, _, command = command.partition("; ")
        for piece in filter(None, re.split(r"\s*;\s*", command)):
            if not all(self._single(one.strip(), outside) for one in piece.split("&&")):
                return False
        return True

    def _single(self, command: str, outside: bool) -> bool:  # noqa: C901 - one case a command
        words = shlex.split(command)
        if words[0] == "sudo":
            if self.container and not outside:
                return False  # images have no sudo, and are not the board
            words = words[1:]
        match words:
            case ["apt-get", "update"]:
                self.fresh_lists = True
            case ["apt-get", "install", "-y", *packages]:
                return self.fresh_lists and self._apt(packages)
            case ["apt", "install", *packages]:
                return self._apt([name for name in packages if name != "--reinstall"])
            case [python, "-m", "venv", *options, ".venv"] if python.startswith("/usr/bin/python3."):
                assert options == ["--clear", "--system-site-packages"]
                if int(python.rpartition(".")[2]) != self.jetpack.python[1] or "python3-venv" not in self.apt:
                    return False  # "ensurepip is not available"
                self.python, self.pip, self.sees_system = self.jetpack.python, {}, True
            case [".", ".venv/bin/activate"]:
                return self.type(first_install())
            case ["pip", "uninstall", "-y", *names]:
                self.pip = {name: version for name, version in self.pip.items() if name not in names}
            case ["pip", "install", *requirements]:
                return self._pip(requirements)
            case ["docker", "run", "--rm", "--runtime", "nvidia", "--group-add", "video", *_]:
                self.gpu_in_container = outside
                return outside
            case ["nvpmodel", "-m", number]:
                self.mode = int(number)
            case ["jetson_clocks"]:
                self.locked = True
            case ["swapon", "/swapfile"]:
                self.swap_file = True
            case ["fallocate" | "chmod" | "mkswap" | "systemctl", *_]:
                pass
            case _:
                raise AssertionError(f"nobody knows what this does: {command}")
        return True

    def _apt(self, packages: list[str]) -> bool:
        for name in packages:
            if name == "nvidia-l4t-dla-compiler" and self.jetpack.name == "7.2":
                return False  # "no apt package on JP7.2 provides it": wyoming-whisper-trt#1038
            if name in ("nvidia-l4t-dla-compiler", "nvidia-jetpack"):
                self.lacks = ()
            else:
                assert name in ("python3-venv", "python3-opencv", "python3-libnvinfer"), name
            self.apt.add(name)
        return True

    def _pip(self, words: list[str]) -> bool:
        limits: dict[str, Requirement] = {}
        if words[0] == "-c":
            lines = (DOCS.parents[1] / words[1]).read_text().splitlines()
            limits = {one.name: one for one in map(Requirement, (x for x in lines if x and x[0] != "#"))}
            words = words[2:]
        if words[0] == "--no-deps":
            return True  # hasn-edge itself
        wanted = [Requirement(word) for word in words]
        for one in list(wanted):
            if one.name == "hasn-edge":  # what it needs comes along, an OpenCV and the newest NumPy too
                wanted += map(Requirement, HASN_EDGE)
                wanted += map(Requirement, ("torch", "safetensors", "onnx") if "export" in one.extras else ())
        # Requirements of one command hold together: a bound on NumPy is of all that need NumPy.
        bounds = {one.name: one.specifier for one in wanted}
        for one in wanted:
            if one.name != "hasn-edge" and not self._install(one.name, bounds, limits):
                return False
        return True

    def _install(self, name, bounds, limits) -> bool:
        specifier = bounds.get(name, Requirement(name).specifier) & (
            limits[name].specifier if name in limits else Requirement(name).specifier
        )
        have = self.pip.get(name)
        if have is None and name == "numpy" and self.sees_system and self.jetpack.numpy != "1.21.5":
            have = self.jetpack.numpy  # new enough for ONNX Runtime
        found = WHEELS.get(name, {}).get(f"{self.python[0]}.{self.python[1]}", (OTHERS,))
        fitting = [version for version in found if specifier.contains(version)]
        if have is None or not specifier.contains(have):
            if not fitting:
                return False
            have = self.pip[name] = fitting[-1]
        if name == "cuda-python" and Version(have) >= Version("12.6.1"):
            self.pip["cuda-bindings"] = have
        if name == "torch" and Version(have) >= SERVER_TORCH:
            self.pip.setdefault("cuda-bindings", "13.0.1")
        return True


def first_install() -> str:
    """Return the guide's command that installs hasn-edge, without its remark."""
    command = next(line for line in DOCS.read_text().splitlines() if "pip install --no-deps ." in line)
    return command.partition("  #")[0].replace("$C", "-c constraints-jetpack6.txt")


def whole(board: Board, *commands: str, **changes: Any) -> Board:
    """Return a board with these changes and after these commands, which succeed."""
    for name, value in changes.items():
        setattr(board, name, value)
    for command in commands:
        assert board.type(command), command
    return board

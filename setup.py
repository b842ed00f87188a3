"""Packaging: the package itself, and the two data folders beside it carried inside the wheel."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ("calibration/**/*", "engines/targets/*.toml")
"""What an installation needs of the folders that hold declarations and data (see hasn_edge/files.py)."""


class BuildWithData(build_py):
    """Copy the data to ``hasn_edge/_shipped``: top-level ``calibration`` and ``engines`` packages would
    land in everybody's namespace. An editable installation finds the folders in the checkout instead."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(Path(self.build_lib, "hasn_edge", "_shipped"), ignore_errors=True)
        for target, source in self._shipped().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *self._shipped()]

    def get_source_files(self):
        # Relative, as setuptools wants them: this is what puts the data into a source distribution.
        sources = [str(source.relative_to(ROOT)) for source in self._shipped().values()]
        return [*super().get_source_files(), *sources]

    def _shipped(self):
        # The scripts that made the data stay in the repository.
        files = sorted(
            path
            for pattern in SHIPPED
            for path in ROOT.glob(pattern)
            if path.is_file() and path.suffix not in (".py", ".pyc")
        )
        folder = Path(self.build_lib, "hasn_edge", "_shipped")
        return {str(folder / path.relative_to(ROOT)): path for path in files}


setup(
    packages=find_packages(include=["hasn_edge", "hasn_edge.*"]),
    package_data={
        "hasn_edge": ["py.typed"],
        "hasn_edge.model": ["weights/*"],
        "hasn_edge.train": ["recipes/*.toml"],
        "hasn_edge.pipeline": ["bundle.md"],
        "hasn_edge.live.web": ["page/*"],
        "hasn_edge.bench": ["*.j2"],
    },
    cmdclass={"build_py": BuildWithData},
)

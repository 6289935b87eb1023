"""Build steps that pyproject.toml cannot express: notebooks go into the wheel, and the model's kernels are compiled.

In: notebooks/*.ipynb and inference/stack/native of the checkout. Out: copies of the notebooks in the built package (an
editable install reads the checkout's), and the optional extension inference.stack._native.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))  # setuptools builds in the folder of this file
TARGET = "haystack_kernel/notebooks"
OPENMP = "-fopenmp"
NATIVE = Extension(
    "inference.stack._native",
    sources=["inference/stack/native/module.c"],
    depends=["inference/stack/native/kernels.h"],
    extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", OPENMP],
    extra_link_args=[OPENMP],
    optional=True,  # without a compiler the package installs, and the model runs in plain torch
)


class BuildWithNotebooks(build_py):
    """Builds the packages, then adds the notebooks; an sdist carries them as well."""

    def run(self) -> None:
        """Build, and copy the notebooks unless the install is editable."""
        if not NOTEBOOKS:
            msg = "no notebooks/*.ipynb beside setup.py, and a wheel without them runs nothing; build a whole checkout"
            raise FileNotFoundError(msg)
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, TARGET)
            self.mkpath(str(folder))
            for path in NOTEBOOKS:
                self.copy_file(str(path), str(folder / path.name), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """What an sdist needs in order to build the same wheel."""
        return [*super().get_source_files(), *map(str, NOTEBOOKS)]


class BuildWithOrWithoutThreads(build_ext):
    """Builds the extension with OpenMP, or single-threaded with a compiler that has none."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension."""
        try:
            super().build_extension(ext)
        except CompileError:
            ext.extra_compile_args = [flag for flag in ext.extra_compile_args if flag != OPENMP]
            ext.extra_link_args = []
            super().build_extension(ext)


setup(
    cmdclass={"build_py": BuildWithNotebooks, "build_ext": BuildWithOrWithoutThreads},
    ext_modules=[NATIVE],
)

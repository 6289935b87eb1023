"""The one build step that pyproject.toml cannot say: notebooks travel in the wheel as haystack_kernel/notebooks.

In: notebooks/*.ipynb of the checkout. Out: copies inside the built package; an editable install reads the checkout's.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))  # setuptools builds in the folder of this file
TARGET = "haystack_kernel/notebooks"


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


setup(cmdclass={"build_py": BuildWithNotebooks})

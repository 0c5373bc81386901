"""FASTFASHION_JPEG=PREFIX links PREFIX/lib/libjpeg.a into the native loader, which is then required. The rest is in pyproject.toml.

Without it the system's libjpeg-turbo is linked, and where there is no compiler or no libjpeg-turbo the loader works through Pillow, slower.
"""

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

PREFIX = "FASTFASHION_JPEG"


def library_of(prefix: Path) -> Path:
    """The static library below a prefix; raises SetupError if there is none, or no header."""
    found = [path for pattern in ("lib/libjpeg.a", "lib64/libjpeg.a", "lib/*/libjpeg.a") for path in sorted(prefix.glob(pattern))]
    if not found or not (prefix / "include" / "jpeglib.h").is_file():
        raise SetupError(f"{PREFIX}={prefix}: expected lib/libjpeg.a and include/jpeglib.h there; tools/static_jpeg.py makes them")
    return found[0]


class BuildExt(build_ext):
    def build_extensions(self) -> None:
        prefix = os.environ.get(PREFIX)
        for extension in self.extensions if prefix else ():
            library = library_of(Path(str(prefix)).resolve())
            extension.libraries.remove("jpeg")
            extension.include_dirs.insert(0, str(Path(str(prefix)).resolve() / "include"))
            extension.extra_objects.append(str(library))
            # A process may hold another libjpeg (Pillow's, OpenCV's): ours neither shows its functions nor calls theirs.
            hidden = "-Wl,-exported_symbol,_PyInit__native" if sys.platform == "darwin" else "-Wl,--exclude-libs,ALL"
            extension.extra_link_args.append(hidden)
            extension.depends.append(str(library))
            extension.optional = False
            # Folders of the Python that builds are nobody else's.
            linker = [part for part in self.compiler.linker_so if not part.startswith("-Wl,-rpath")]
            self.compiler.set_executable("linker_so", linker)
        super().build_extensions()


setup(cmdclass={"build_ext": BuildExt})

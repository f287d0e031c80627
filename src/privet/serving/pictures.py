"""Files of pictures that a model is asked about."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privet.errors import DataError
from privet.files import read_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pictures:
    """What the files hold, by their names."""

    names: tuple[str, ...]
    contents: tuple[bytes, ...]

    @classmethod
    def at(cls, path: Path) -> Pictures:
        """A file, or those of a folder in order of their names; DataError for none."""
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [each for each in inside if each.suffix.lower() in SUFFIXES]
        if not files:
            raise DataError(f"{path} holds no picture ({', '.join(SUFFIXES)})")
        try:
            contents = tuple(map(read_file, files))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
        return cls(tuple(each.name for each in files), contents)

    def grey(self) -> npt.NDArray[np.uint8]:
        """The pictures in grey, all of one size, (n, height, width); DataError for others."""
        from PIL import Image

        found = []
        for name, content in zip(self.names, self.contents, strict=True):
            try:
                with Image.open(io.BytesIO(content)) as picture:
                    found.append(np.asarray(picture.convert("L")))
            # Of a file from anywhere: each of Pillow's readers fails in a way of its own.
            except Exception as error:
                raise DataError(f"{name} is no picture that can be read: {error}") from None
        if len(sizes := {each.shape for each in found}) > 1:
            raise DataError(f"pictures of several sizes: {', '.join(map(str, sorted(sizes)))}")
        return np.stack(found)

"""Images in folders, one for each class, with a pretrained base or without one."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from privet.errors import DataError, ExperimentError, PrivetError, nearest
from privet.files import read_file
from privet.tasks.bases import ImageBase, image_base
from privet.tasks.features import HEADS, Digests, FeatureStore, Headed, digests_of
from privet.tasks.files import cache_folder, demand_inside, read_inside
from privet.tasks.options import ImageOptions
from privet.tasks.task import (
    Classification,
    Examples,
    cnn_rgb,
    drawn_by_content,
    known_model,
    linear,
    mlp,
)

_CHANNELS = 3
_PATHS = ("folder", "test_folder", "weights", "cache")
_HIDDEN = 64
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of more than eight bits a pixel, which RGB would cut off."""
_OWN_CLASSES = (
    "Which classes there are is read from the names of folders; epsilon does not cover it. "
    "data.classes says it beforehand."
)
Built = Callable[[int, int], nn.Module]
"""By what it sees (pixels of a side, or how many features) and the number of classes."""
_OF_FOLDERS = {"folder", "folders", "test_folder", "test_fraction", "cache"}
_WHOLE: Mapping[str, Built] = {
    "linear": lambda size, classes: linear(_CHANNELS * size**2, classes),
    "mlp": lambda size, classes: mlp(_CHANNELS * size**2, classes, hidden=_HIDDEN),
    "cnn": lambda _, classes: cnn_rgb(classes),
}


@dataclass(frozen=True)
class _Image:
    """A file with the class that its folder says, and the silo that holds it."""

    name: str
    """Relative to the data folder."""
    label: str
    silo: str | None = None


class ImageFolders(Classification):
    """Predict in which folder an image lies. Options (`[data]`) are those of `ImageOptions`.

    Images are decoded by Pillow, turned as their EXIF tags say, and made RGB; the largest square in
    the middle is scaled to `size` pixels (bicubic). With a base its features (n, width) are the
    inputs: computed once for each image and kept (`cache`), so that training costs what its head
    costs. The base is part of the model all the same: frozen, named by its digest, never sent. The
    model takes images too. Without a base inputs are (n, 3, size, size) float32, in [-1, 1].

    Models: linear (default, on features or pixels), mlp, and without a base cnn.

    Raises ExperimentError for settings, a missing extra and bases that are not on this machine;
    DataError for folders that fit no class or differ between silos, and files that are no images,
    by name.
    """

    held = False
    """Whether a data holder describes it."""

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: object
    ) -> None:
        self._options = ImageOptions.of(options)
        built, among = ("images with a base", HEADS) if self._options.base else ("images", _WHOLE)
        self._build = among[known_model(built, model or "linear", among)]
        self._data_dir = data_dir
        _pillow()

    def model(self) -> nn.Module:
        classes = len(self._classes)
        if self._base is None:
            return self._build(self._options.size, classes)
        return Headed(self._base.frozen.twin(), self._build(self._base.width, classes))

    @property
    def recipe(self) -> dict[str, object]:
        """Options that make the same model, and the same inputs of new images, without a folder."""
        given = self._options.model_dump(exclude_unset=True, exclude=_OF_FOLDERS)
        return {**given, "classes": list(self._classes)}

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the model's outputs stand for, in their order."""
        return self._classes

    def encode_files(self, contents: Sequence[bytes]) -> Tensor:
        """Inputs of new images by what their files hold; ValueError for what is none."""
        pixels = torch.stack([decoded(content, self._options.size) for content in contents])
        digests = np.concatenate([digests_of([content]) for content in contents])
        return self._seen(lambda places: pixels[list(places)], digests, cache=None)

    def train_data(self) -> Examples:
        return self._halves[0]

    def test_data(self) -> Examples | None:
        return self._halves[1]

    @property
    def uncovered(self) -> tuple[str, ...]:
        return () if self._options.classes else (_OWN_CLASSES,)

    @cached_property
    def _base(self) -> ImageBase | None:
        options = self._options
        if options.base is None:
            return None
        weights = self._home / Path(options.weights).expanduser() if options.weights else None
        return image_base(
            options.base, weights=weights, size=options.size, digest=options.base_digest
        )

    @property
    def _home(self) -> Path:
        return (self._data_dir or Path.cwd()).absolute()

    @cached_property
    def _images(self) -> list[_Image]:
        """All that are trained on, or kept of those for testing."""
        options = self._options
        if options.folder:
            return self._listed(options.folder)
        if not options.folders:
            raise DataError("data.folder or data.folders is needed: the experiment names no images")
        silos = self._silo_folders(options.folders)
        found = {name: self._listed(folder, silo=name) for name, folder in silos.items()}
        if options.classes is None:
            _demand_same(found)
        return [image for images in found.values() for image in images]

    def _silo_folders(self, folders: list[str] | str) -> dict[str, str]:
        """The folders of silos by the silo's name."""
        names = folders
        if isinstance(folders, str):
            paths = sorted(path for path in self._home.glob(folders) if path.is_dir())
            names = [path.relative_to(self._home).as_posix() for path in paths]
        if not names:
            raise DataError(f"data.folders = {folders!r}: no folder in {self._home} fits")
        found = {Path(name).name: name for name in names}
        if len(found) < len(names):
            raise DataError(f"data.folders = {folders!r}: two folders have the same name")
        return found

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        found = self._options.classes or sorted({image.label for image in self._images})
        if len(found) < 2:
            raise DataError(f"{self._home}: images of two classes are needed, there is {found}")
        return tuple(found)

    def _listed(self, folder: str, *, silo: str | None = None) -> list[_Image]:
        """What lies in the folders of classes, by name; nothing that is hidden."""
        home = self._home / folder
        if not home.is_dir():
            raise DataError(
                f"{folder} not found: there is no folder {home}; paths in [data] are "
                "relative to the data folder (--data-dir or PRIVET_DATA)"
            )
        return [
            _Image(path.relative_to(self._home).as_posix(), inner.name, silo)
            for inner in sorted(home.iterdir())
            if self._is_class(inner, folder)
            for path in sorted(inner.rglob("*"))
            if not path.name.startswith(".") and not path.is_dir()
        ]

    def _is_class(self, path: Path, folder: str) -> bool:
        """Whether `path` is the folder of a class; DataError for images of none."""
        if path.name.startswith("."):
            return False
        if not path.is_dir():
            raise DataError(f"{path} lies beside the folders of classes, and so is of no class")
        known = self._options.classes
        if known is not None and path.name not in known:
            raise DataError(
                f"{folder}/{path.name} is the folder of no class: data.classes has "
                f"{', '.join(known)}.{nearest(path.name, known)}"
            )
        return True

    @cached_property
    def _halves(self) -> tuple[Examples, Examples | None]:
        options = self._options
        tests = self._listed(options.test_folder) if options.test_folder else []
        _demand_known(tests, self._classes)
        train = self._examples(self._images)
        if tests:
            return train, replace(self._examples(tests), silo=None, silo_names=())
        pairs = zip(self._known_by(train), train.targets.tolist(), strict=True)
        kept = drawn_by_content([b"%s %d" % pair for pair in pairs], options.test_fraction)
        test = train.take(np.flatnonzero(kept))
        return train.take(np.flatnonzero(~kept)), test if len(test) else None

    def _known_by(self, examples: Examples) -> list[bytes]:
        assert examples.records is not None
        return [digest.tobytes() for digest in examples.records.numpy()]

    def _examples(self, images: Sequence[_Image]) -> Examples:
        images = self._usable(images)
        digests = np.concatenate([digests_of([self._content(image)]) for image in images])
        targets = torch.tensor([self._classes.index(image.label) for image in images])
        examples = Examples(
            self._inputs(images, digests), targets, records=torch.from_numpy(digests)
        )
        silos = [image.silo for image in images]
        names = tuple(dict.fromkeys(name for name in silos if name is not None))
        if not names:
            return examples
        silo = np.array([names.index(str(name)) for name in silos], dtype=np.int64)
        return replace(examples, silo=silo, silo_names=names)

    def _usable(self, images: Sequence[_Image]) -> Sequence[_Image]:
        return images

    def _inputs(self, images: Sequence[_Image], digests: Digests) -> Tensor:
        def read(places: Sequence[int]) -> Tensor:
            return torch.stack([self._pixels(images[place]) for place in places])

        return self._seen(read, digests, cache=self._cache)

    def _seen(
        self, read: Callable[[Sequence[int]], Tensor], digests: Digests, *, cache: Path | None
    ) -> Tensor:
        """What the part of the model that trains takes, of pixels uint8 (k, 3, size, size)."""
        if self._base is None:
            return (read(range(len(digests))).float() / 255 - 0.5) / 0.5
        base = self._base
        store = FeatureStore(cache, base.frozen, f"image {self._options.size}", width=base.width)
        return store.features(digests, lambda places: base.seen(read(places)))

    @property
    def _cache(self) -> Path | None:
        return cache_folder(self._options.cache, self._data_dir)

    def _content(self, image: _Image) -> bytes:
        try:
            return read_file(self._home / image.name)
        except OSError as error:
            raise DataError(f"{image.name} cannot be read: {error}") from error

    def _pixels(self, image: _Image) -> Tensor:
        """uint8 (3, size, size); DataError with the file's name for what cannot be decoded."""
        try:
            return decoded(self._content(image), self._options.size)
        except ValueError as error:
            raise DataError(f"{image.name} cannot be decoded: {error}") from error


class HeldImageFolders(ImageFolders):
    """`ImageFolders` of a real silo, and of a server's own images to test on.

    What cannot be decoded, lies in no class's folder or is reached by a link is left out. Features
    are kept where the holder's description says (`cache`), and else in memory alone.
    """

    held = True

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: object
    ) -> None:
        super().__init__(model=model, data_dir=data_dir, **options)
        if self._options.classes is None or self._options.folders:
            raise ExperimentError(
                "images on real silos: data.classes names the classes, and data.folder one folder"
            )
        # Else a job could have a server call any function, and look for any file.
        if ":" in (self._options.base or ""):
            raise ExperimentError(
                f"data.base = {self._options.base!r}: on real silos a base of your own comes with "
                "a task of your own, whose code a policy approves"
            )
        demand_inside({name: getattr(self._options, name) for name in _PATHS})

    def train_data(self) -> Examples:
        return self._examples(self._images)

    def test_data(self) -> Examples | None:
        return self._tested

    @cached_property
    def _tested(self) -> Examples | None:
        folder = self._options.test_folder
        images = self._usable(self._listed(folder)) if folder else ()
        return self._examples(images) if images else None

    def _is_class(self, path: Path, folder: str) -> bool:  # noqa: ARG002
        return path.name in self._classes and path.is_dir()

    def _usable(self, images: Sequence[_Image]) -> Sequence[_Image]:
        return [image for image in images if self._decodes(image)]

    def _decodes(self, image: _Image) -> bool:
        try:
            self._pixels(image)
        except PrivetError:
            return False
        return True

    def _content(self, image: _Image) -> bytes:
        return read_inside(self._data_dir, image.name)

    @property
    def _cache(self) -> Path | None:
        return super()._cache if self._options.cache else None


def decoded(content: bytes, size: int) -> Tensor:
    """The middle of an image, uint8 (3, size, size); ValueError for what is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.mode in _DEEP:
                raise ValueError(f"mode {opened.mode} has more than eight bits a pixel")
            image = ImageOps.exif_transpose(opened).convert("RGB")
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise ValueError("it is no image of a kind that is known here") from None
    # Of a file from anywhere: each of Pillow's readers fails in a way of its own.
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _demand_same(found: Mapping[str, Sequence[_Image]]) -> None:
    """DataError for a class that one silo has images of and another has not."""
    labels = {silo: {image.label for image in images} for silo, images in found.items()}
    everywhere = set.union(*labels.values())
    for silo, own in labels.items():
        if lacking := sorted(everywhere - own):
            having = next(name for name, those in labels.items() if lacking[0] in those)
            raise DataError(
                f"data.folders: {silo} has no images of {lacking[0]!r}, which {having} has; where "
                "silos differ, data.classes says which classes there are"
            )


def _demand_known(images: Sequence[_Image], classes: Sequence[str]) -> None:
    for image in images:
        if image.label not in classes:
            raise DataError(
                f"data.test_folder: {image.name} is of class {image.label!r}, and nothing that is "
                f"trained on is; the classes are {', '.join(classes)}"
            )


def _pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise ExperimentError("task = 'images' needs Pillow: pip install 'privet[hf]'") from None

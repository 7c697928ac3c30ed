"""Read and check the YAML files that declare workloads."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictFloat, StrictInt, Tag, field_validator, model_validator

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.engine.errors import shown
from tpbench.engine.files import user_path
from tpbench.engine.parts import EXTRA, JOINT, SLEEP, Convolution
from tpbench.workloads.catalogue import WORKLOADS, get_workload, is_file
from tpbench.workloads.workload import DATASETS, SCHEDULES, Image, Shape, Workload, known_shape
from tpbench.workloads.yaml_files import FileModel, Number, Text, Whole, YamlFile, invalid

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_RESERVED = ("all", "exact")
_VALIDATION_SHARE = 0.1
"""Close to the paper's 5,000 validation samples of each data set."""

Width = Annotated[Whole, Field(ge=1, le=100_000)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]
Epochs = Annotated[Whole, Field(ge=0, le=10_000)]
Deviation = Annotated[Number, Field(gt=0, lt=1e30)]
Normalisation = Annotated[
    Annotated[Literal["standard", "unit", "none"], Tag("word")]
    | Annotated[tuple[Annotated[Number, Field(gt=-1e30, lt=1e30)], Deviation], Tag("pair")],
    Discriminator(lambda value: "pair" if isinstance(value, list) else "word"),
]
"""A word, or mean and deviation."""


class ConvolutionKeys(FileModel):
    """The keys of a convolutional layer in ``network``."""

    conv: Width
    """Channels."""
    kernel: Annotated[Whole, Field(ge=1, le=99)] = Convolution.kernel
    """Rows and columns of the kernel."""
    pool: Annotated[Whole, Field(ge=1, le=99)] = Convolution.pool
    """Rows and columns of the pooling window; 1: no pooling."""
    stride: Annotated[Whole, Field(ge=1, le=99)] | None = None
    """Of the pooling window; by default 2, and without pooling 1."""

    @model_validator(mode="after")
    def _check_sizes(self) -> ConvolutionKeys:
        if self.kernel % 2 == 0:
            raise invalid(f"kernel must be odd, got {self.kernel}", "kernel")
        if self.stride and self.stride > self.pool:
            if self.pool == 1:
                raise invalid(f"stride {self.stride} needs pooling, which 'pool: 1' leaves out", "stride")
            raise invalid(f"stride must be at most the pooling window's {self.pool}, got {self.stride}", "stride")
        return self

    @property
    def layer(self) -> Convolution:
        """The layer that the keys declare."""
        return Convolution(self.conv, self.kernel, self.pool, self.stride or min(Convolution.stride, self.pool))


Layer = Annotated[
    Annotated[Width, Tag("width")] | Annotated[ConvolutionKeys, Tag("convolution")],
    Discriminator(lambda value: "convolution" if isinstance(value, (dict, ConvolutionKeys)) else "width"),
]
"""A fully connected layer's width, or a convolution."""


class FeedbackEpochs(FileModel):
    """The schedules of feedback training: epochs before, and between joint epochs."""

    sleep: tuple[Epochs, Epochs] = SCHEDULES[SLEEP]
    extra: tuple[Epochs, Epochs] = SCHEDULES[EXTRA]


class Declaration(FileModel):
    """The keys of a workload's file."""

    name: Text
    like: Text | None = None
    """The workload that keys are taken from which the file lacks."""
    data: Text
    """A known data set, or the path of an ``.npz`` file."""
    test: Annotated[Number, Field(gt=0, lt=1)] = 0.0
    """Share of the samples that are the test set, where the file has none."""
    network: Annotated[list[Layer], Field(min_length=1, max_length=200)]
    """The hidden layers: convolutions first, then widths of fully connected ones."""
    image: tuple[Width, Width, Width] | None = None
    """Rows, columns and channels of a sample, where the data do not say it."""
    random_hidden: Width = Workload.random_hidden
    normalise: Normalisation = "standard"
    batch_size: Count = Workload.batch_size
    validation_size: StrictInt | StrictFloat = _VALIDATION_SHARE
    """Samples, or their share of the training samples; 0: all samples train, and the last epoch counts."""
    epochs: Count = Workload.epochs
    trained_layers: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=1)] | None = None
    feedback_epochs: FeedbackEpochs = FeedbackEpochs()
    prune: tuple[Count, Annotated[Number, Field(gt=0, le=1)]] = Workload.prune
    """After so many epochs, the largest training error; 1 stops no run."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("must be 1 to 40 of a-z, 0-9 and '-'")
        return name

    @field_validator("data")
    @classmethod
    def _check_data(cls, data: str) -> str:
        if not data.strip():
            raise ValueError("must name an .npz file or a data set")
        return data

    @field_validator("image", mode="before")
    @classmethod
    def _check_image(cls, image: object) -> object:
        if image is not None and not (isinstance(image, (list, tuple)) and len(image) == 3):
            raise ValueError("must be [rows, columns, channels], such as [28, 28, 1]")
        return image

    @model_validator(mode="after")
    def _check_layers(self) -> Declaration:
        kinds = [isinstance(layer, ConvolutionKeys) for layer in self.network]
        if kinds != sorted(kinds, reverse=True):
            raise invalid("convolutions come before the fully connected layers", "network")
        if all(kinds):
            raise invalid("a fully connected hidden layer must follow the convolutions, such as 64", "network")
        layers, chosen = len(self.network) + 1, sorted(self.trained_layers or ())
        if chosen and chosen[-1] > layers:
            raise invalid(f"trained_layers must be layers from 1 to {layers}, got {chosen[-1]}", "trained_layers")
        if chosen and chosen != list(range(chosen[0], chosen[0] + len(chosen))):
            raise invalid(
                f"trained_layers must be consecutive layers, each once, got {shown(self.trained_layers)}",
                "trained_layers",
            )
        return self

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The hidden layers that are convolutions."""
        return tuple(layer.layer for layer in self.network if isinstance(layer, ConvolutionKeys))

    def settings(self) -> dict[str, Any]:
        """Return the fields of the workload that the file alone decides."""
        layers = tuple(sorted(self.trained_layers or ()))
        return {
            "name": self.name,
            "title": self.name,
            "hidden": tuple(layer for layer in self.network if isinstance(layer, int)),
            "convolutions": self.convolutions,
            "random_hidden": self.random_hidden,
            "normalise": self.normalise,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "trained_layers": layers if 0 < len(layers) <= len(self.network) else None,
            "schedules": {
                JOINT: SCHEDULES[JOINT],
                SLEEP: self.feedback_epochs.sleep,
                EXTRA: self.feedback_epochs.extra,
            },
            "prune": self.prune,
            "test": self.test,
        }


def read_workload(path: Path) -> Workload:
    """Read a workload from a file, and check that the data which it names fit.

    Args:
        path: the YAML file; the data that it names lie beside it, or at an absolute path.

    Raises:
        UsageError: the file or its data are wrong; with file and line.
    """
    file = YamlFile(path, "a workload", stand_ins=("like", "data"))
    name = file.values.get("name")
    if isinstance(name, str) and (name in WORKLOADS or name in _RESERVED):
        raise file.error(("name",), f"the name '{name}' is taken; a workload of your own needs another")
    workload = _declared(file)
    if workload.own_file:
        _check_own_data(file, workload)
    return workload


def _declared(file: YamlFile) -> Workload:
    declaration = file.validate(Declaration, _completed(file))
    shape = _shape(file, declaration)
    workload = Workload(
        image=_image(file, declaration, shape),
        data=shape.data,
        samples=shape.training,
        inputs=shape.inputs,
        outputs=shape.outputs,
        validation_size=_validation_size(file, declaration.validation_size, shape.training),
        **declaration.settings(),
    )
    left = workload.samples - workload.validation_size
    if workload.batch_size > left:
        raise file.error(
            ("batch_size",), f"batch_size {workload.batch_size} is more than the {left} samples to train on"
        )
    return replace(workload, source=workload.content_digest())


def _base(file: YamlFile) -> Workload | None:
    """Return the workload that a file's is like."""
    like = file.values.get("like")
    if like is None:
        return None
    if not isinstance(like, str) or is_file(like):
        raise file.error(("like",), f"like must name a workload, such as mnist, got {shown(like)}")
    try:
        return get_workload(like)
    except TpbenchError as error:
        raise file.error(("like",), str(error)) from error


def _completed(file: YamlFile) -> dict[str, Any]:
    """Return the values of the file, completed from the workload that it is like."""
    base, schedules = _base(file), file.values.get("feedback_epochs")
    if not base:
        return file.values
    keys = base.declaration()
    if "data" in file.values:
        keys.pop("test", None)
        keys.pop("image", None)
    values = {**keys, **file.values}
    if isinstance(schedules, dict):
        values["feedback_epochs"] = {**keys["feedback_epochs"], **schedules}
    return values


def _shape(file: YamlFile, declaration: Declaration) -> Shape:
    known = known_shape(declaration.data)
    if not known:
        return _own_shape(file, declaration.data, declaration.test)
    if declaration.test:
        raise file.error(("test",), f"test is for files of your own: {declaration.data} has a test set")
    return known


def _own_shape(file: YamlFile, data: str, test: float) -> Shape:
    from tpbench.workloads.cache import own_dataset
    from tpbench.workloads.own_data import own_shape

    try:
        # Not resolved: a link may be what all machines of a cluster have in common.
        path = Path(os.path.abspath(file.path.parent / user_path(data)))  # noqa: PTH100
        if path.suffix != ".npz":
            if path.is_file():
                raise UsageError(
                    f"{data} is no .npz file; numpy.savez('{path.stem}.npz', x=..., y=...) writes arrays as one"
                )
            near = unknown("data set", data, ("digits", *DATASETS))
            raise UsageError(f"data must be an .npz file or a data set: {near}")
        return own_shape(path, own_dataset(path, test).arrays)
    except TpbenchError as error:
        raise file.error(("data",), str(error)) from error


def _image(file: YamlFile, declaration: Declaration, shape: Shape) -> Image | None:
    """Return the shape of a sample, after a check of the maps; None where the network has no convolutions."""
    image = declaration.image or shape.image
    if declaration.image:
        if shape.image not in (None, declaration.image):
            raise file.error(("image",), f"the data are images of {_format_image(shape.image)}")
        if prod(declaration.image) != shape.inputs:
            raise file.error(("image",), f"{_format_image(declaration.image)} are not the {shape.inputs} of a sample")
    if not declaration.convolutions:
        return None
    if not image:
        raise file.error(
            ("network",),
            f"a convolution needs images, and samples have {shape.inputs} numbers: 'image: [rows, columns, channels]' "
            "gives them a shape",
        )
    if not declaration.image and image[0] <= 4 < min(image[1:]):
        raise file.error(
            ("data",),
            f"images of {_format_image(image)} look as if channels came first: store rows, columns, channels "
            f"(numpy.moveaxis(x, 1, 3)), or confirm them with 'image: {list(image)}'",
        )
    rows, columns, channels = image
    maps = (channels, rows, columns)
    for k, layer in enumerate(declaration.convolutions):
        if layer.kernel > layer.largest_kernel(maps):
            raise file.error(
                ("network", k),
                f"network, entry {k + 1}: its map of {maps[1]} x {maps[2]} is too small for a kernel of "
                f"{layer.kernel} x {layer.kernel}; 'kernel' is at most {layer.largest_kernel(maps)} there",
            )
        if layer.pool > 1 and (maps[1:] == (1, 1) or min(layer.output(maps)) < 1):
            raise file.error(
                ("network", k),
                f"network, entry {k + 1}: its map of {maps[1]} x {maps[2]} is too small for pooling of {layer.pool} x "
                f"{layer.pool}; 'pool: 1' leaves it out",
            )
        maps = layer.output(maps)
    return image


def _format_image(image: Image | None) -> str:
    return " x ".join(map(str, image or ()))


def _validation_size(file: YamlFile, size: float, samples: int) -> int:
    """Return a number of validation samples that leaves some to train on, from a number or a share; 0 is none."""
    location = ("validation_size",)
    if isinstance(size, float) and 0 < size <= 1:
        count = round(size * samples)
        if not 0 < count < samples:
            raise file.error(location, f"validation_size {size:g} of {samples} samples leaves none on one side")
        return count
    if not 0 <= size < samples or size != int(size):
        raise file.error(
            location,
            f"validation_size must be a whole number from 0 to {samples - 1}, or a share of the {samples} training "
            f"samples, got {shown(size)}",
        )
    return int(size)


def _check_own_data(file: YamlFile, workload: Workload) -> None:
    """Check that the data of a user's file can be normalised and split."""
    import numpy as np

    from tpbench.workloads.cache import load_for
    from tpbench.workloads.own_data import inputs_of

    try:
        dataset = load_for(workload)
        inputs_of(workload.normalise, dataset)
    except TpbenchError as error:
        raise file.error(("normalise",), str(error)) from error
    labels = dataset.arrays["y_train"]
    classes = np.count_nonzero(np.bincount(labels))
    if workload.validation_size > len(labels) - classes:
        raise file.error(
            ("validation_size",),
            f"{workload.validation_size} validation samples of {len(labels)} leave too few to train on for {classes} "
            "classes",
        )

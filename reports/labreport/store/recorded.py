"""Data sets whose images are not here, from what stored runs record of them (Dataset.record)."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, ValidationError
from pydantic.dataclasses import dataclass as checked

from simclr_core.data.dataset import Dataset, check_name
from simclr_core.data.folder import LARGEST_IMAGE
from simclr_core.errors import DataNotFound, StoreError


@dataclass(frozen=True)
class RecordedSplit:
    """The size of a split whose images are not here."""

    size: int
    name: str

    def __len__(self) -> int:
        return self.size

    def __getattr__(self, attribute: str):
        if attribute in ("images", "labels", "part"):
            raise DataNotFound(
                f"{self.name}: its images are not here (stored runs only), and this result is not "
                "among the stored ones; run again with the data (--data DIR)"
            )
        raise AttributeError(attribute)


def _named(name: str) -> str:
    check_name(name, "class or data set")
    return name


Name = Annotated[str, AfterValidator(_named)]
Size = Annotated[int, Field(ge=0, lt=1 << 40)]


@checked(config=ConfigDict(strict=True))
class _Record:
    name: Name
    source: Name
    fingerprint: Name
    train: Size
    test: Size
    image_shape: Annotated[list[Size], Field(min_length=3, max_length=3)]
    class_names: list[Name]
    mean: list[FiniteFloat]
    std: list[FiniteFloat]

    def __post_init__(self) -> None:
        if math.prod(self.image_shape) > LARGEST_IMAGE * 3:
            raise ValueError(f"images of {self.image_shape}")
        if not len(self.mean) == len(self.std) == self.image_shape[2]:
            raise ValueError("mean and std are not of as many channels as the images")


def dataset_from_record(record: dict) -> Dataset:
    """The data set a stored run was made with, without its images; the fingerprint as recorded.

    Raises: StoreError if the record cannot be one.
    """
    try:
        _Record(**record)
    except (TypeError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        message = f"the record of the data of a stored run is not one ({why}); remove that run"
        raise StoreError(message) from error
    train, test = (RecordedSplit(record[split], record["name"]) for split in ("train", "test"))
    identity = (tuple(record[key]) for key in ("class_names", "mean", "std"))
    return Dataset(record["name"], train, test, *identity, record["source"], record)

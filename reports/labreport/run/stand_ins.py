"""The data sets that the notebooks ask for, looked up before anything runs; stand-ins for missing ones."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from labreport.project import working_in
from simclr_core.data import Dataset, load_dataset
from simclr_core.errors import DataNotFound, UserError

NETWORK_SECONDS = 10  # patience with a silent network, each connection


@dataclass
class DataSettled:
    """parameters: notebook -> parameter -> value, stand-ins filled in; used: notebook -> its data sets."""

    parameters: dict[str, dict[str, Any]]
    used: dict[str, list[Dataset]] = field(default_factory=dict)


def data_environment(data_dir: str | None, root: Path) -> dict[str, str]:
    """SIMCLR_DATA and SIMCLR_CACHE as absolute paths, since kernels run in notebooks/.

    SIMCLR_DATA becomes the folders looked in, in order: --data, $SIMCLR_DATA, data/ (joined by os.pathsep).
    Raises: UserError for a folder that was named and does not exist.
    """
    given = os.environ.get("SIMCLR_DATA", "")
    named = [("--data", data_dir), *(("$SIMCLR_DATA", folder) for folder in given.split(os.pathsep))]
    for source, folder in named:
        if folder and not Path(folder).is_dir():
            raise UserError(f"{source}: data folder {folder!r} does not exist; give an existing folder")
    folders = [str(Path(folder).absolute()) for _, folder in named if folder]
    cache = Path(os.environ.get("SIMCLR_CACHE") or root / "data" / "cache").absolute()
    return {
        "SIMCLR_DATA": os.pathsep.join(dict.fromkeys([*folders, str(root / "data")])),
        "SIMCLR_CACHE": str(cache),
    }


def settle_data(
    parameters: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Mapping[str, Any]],
    stand_ins: Mapping[str, str],
    require_real: bool,
    root: Path,
) -> DataSettled:
    """Load every data set that a notebook's parameters name; replace a missing one by its stand-in.

    The parameters are `dataset`, and `mnist_dataset` and the like in a notebook with several; the one that tells the
    notebook of a stand-in is `stand_in_for`, or `mnist_stand_in_for`. Downloads go to <root>/data.

    Raises: DataNotFound if a missing one has no stand-in or real data are required; UserError for damaged data.
    """
    settled = DataSettled({name: dict(values) for name, values in parameters.items()})
    look_up = cache(partial(_look_up, root))
    for name, values in settled.parameters.items():
        for parameter in (parameter for parameter in defaults[name] if parameter.endswith("dataset")):
            wanted = _absolute(values.get(parameter, defaults[name][parameter]))
            found = look_up(wanted)
            if isinstance(found, DataNotFound):
                if require_real or wanted not in stand_ins:
                    raise found
                values |= {parameter: stand_ins[wanted]}
                told = _stand_in_parameter(parameter)
                values |= {told: wanted} if told in defaults[name] else {}
                found = look_up(stand_ins[wanted])
                if isinstance(found, DataNotFound):
                    raise found
            elif wanted != defaults[name][parameter]:
                values[parameter] = wanted
            settled.used.setdefault(name, []).append(found)
    return settled


def _stand_in_parameter(dataset_parameter: str) -> str:
    return dataset_parameter.removesuffix("dataset") + "stand_in_for"


def _absolute(dataset: str) -> str:
    """folder:<path> and stream:<path> with the path absolute, since notebooks run in notebooks/."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{Path(path).absolute()}" if colon and kind in ("folder", "stream") else dataset


def _look_up(root: Path, dataset: str) -> Dataset | DataNotFound:
    try:
        with _impatient_network(), working_in(root):
            return load_dataset(dataset)
    except DataNotFound as error:
        return error


@contextmanager
def _impatient_network() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def banner(parameters: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The red text on the first page: which data sets were missing and what took their place."""
    replaced = {
        values[_stand_in_parameter(parameter)]: dataset
        for values in parameters.values()
        for parameter, dataset in values.items()
        if parameter.endswith("dataset") and values.get(_stand_in_parameter(parameter))
    }
    if not replaced:
        return None
    pairs = "; ".join(f"{wanted} was not found, {used} stands in its place" for wanted, used in replaced.items())
    return f"Stand-in data: {pairs}. No number of the notebooks concerned says anything about {', '.join(replaced)}."

"""What a stored number depends on: configuration, view recipe, data, and the code that made it."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from labreport.store.files import checksum
from labreport.store.own import object_source
from simclr_core.config import PretrainConfig
from simclr_core.data.dataset import Dataset
from simclr_core.data.source import code_digests

# The fields that matter to an untrained encoder.
UNTRAINED = ["dataset", "encoder", "width", "stem", "init", "objective"]
UNTRAINED += ["precision", "device", "seed"]
GLUE = "labreport.measure"  # which features and labels an evaluation gets


EVALUATED_BY = {  # kind of evaluation -> module of the method
    **dict.fromkeys(("probe", "finetune", "knn"), "simclr_core.evaluate"),
    **dict.fromkeys(("geometry", "map", "neighbours"), "simclr_core.geometry"),
    "cluster": "simclr_core.cluster",
    "views": "simclr_core.augment",
}


def identity(config: PretrainConfig, data: Dataset) -> dict:
    """What the run's name covers, as JSON types."""
    fields, parts = config.record(), config.own.parts()
    whole = {"data": data.fingerprint}
    if config.objective == "none":
        fields = {key: fields[key] for key in UNTRAINED}
        parts = {name: part for name, part in parts.items() if name == "encoder"}
    else:
        whole["views"] = asdict(config.views())
    if parts:
        whole["own"] = {name: object_source(part) for name, part in parts.items()}
    return json.loads(json.dumps({**whole, "config": fields}))


def label(config: PretrainConfig) -> str:
    """Readable part of the run folder's name."""
    dataset = config.dataset.split(":")[0]
    if config.objective == "none":
        return f"{dataset}-{config.encoder}-untrained"
    return f"{dataset}-{config.encoder}-{config.augmentation}-{config.head}"


def run_name(config: PretrainConfig, data: Dataset) -> str:
    """Folder name of a run: readable parts, then a hash of its identity."""
    return f"{label(config)}-{checksum(identity(config, data))[:12]}"


def training_code(config: PretrainConfig, data: Dataset) -> dict[str, str]:
    """Module -> digest of all that the training of this configuration imports."""
    entries = ["simclr_core.config"]
    entries += ["simclr_core.scale.training"] if config.micro_batch else []
    entries += ["simclr_core.scale.streaming"] if data.name.startswith("stream:") else []
    return code_digests(*entries)


def evaluation_code(kind: str) -> dict[str, str]:
    """Module -> digest of all that a kind of evaluation imports."""
    return code_digests(GLUE, "simclr_core.evaluate", EVALUATED_BY[kind])


def changed(recorded: Mapping[str, str], today: Mapping[str, str]) -> list[str]:
    """The modules whose code is not the recorded one any more."""
    return sorted(name for name in {*recorded, *today} if recorded.get(name) != today.get(name))

"""What of a report's results.json must be the same, to the bit, whenever the same code runs in the same environment.

Everything but three things, and these are taken out by rule, not by tolerance: times (measures and series whose unit
is "seconds"), where the numbers come from (provenance), and the checksums over both. labreport.results requires a unit
of every entry, so a time that is not taken out here shows as a difference.
"""

import json
from pathlib import Path
from typing import Any

CLOCK = "seconds"  # the unit of what depends on the machine's mood


def same_results(path: Path) -> dict[str, Any]:
    """The content of a results.json without times, provenance and checksums."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["provenance"], content["sha256"]
    for notebook in content["notebooks"].values():
        del notebook["provenance"]
        for kind in ("measures", "series"):
            notebook[kind] = {key: entry for key, entry in notebook[kind].items() if entry["unit"] != CLOCK}
    return content


def times(path: Path) -> dict[str, dict]:
    """key -> values of the entries that were taken out as times."""
    notebooks = json.loads(path.read_text(encoding="utf-8"))["notebooks"].values()
    return {key: entry["values"] for notebook in notebooks for kind in ("measures", "series")
            for key, entry in notebook[kind].items() if entry["unit"] == CLOCK}  # fmt: skip


def difference(found: Any, expected: Any, where: str = "") -> str:
    """The first place where two contents differ, and how; "" if they do not."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            if key not in found or key not in expected:
                return f"{where}/{key} is in one alone"
            if found[key] != expected[key]:
                return difference(found[key], expected[key], f"{where}/{key}")
    return "" if found == expected else f"{where}: {found!r}, expected {expected!r}"


def weights(store: Path) -> dict[str, bytes]:
    """<run>/<file> -> content of every weights file in a run store."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in store.glob("*/*.safetensors")}

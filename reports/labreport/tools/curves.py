"""Loss curves from run folders alone: `python -m labreport.tools.curves runs/cifar10-* --output curves.pdf`.

Needs no data, no weights, no GPU and no notebook: only each folder's history.csv, which is checked by the checksum in
provenance.json where that is there.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from labreport.notebook.figures import loss_curves
from labreport.store.files import file_sha256, read_json
from labreport.store.runs import read_history
from simclr_core.errors import StoreError


def read_losses(run: Path) -> list[float]:
    """One an epoch. Raises: StoreError for damage, seen by provenance.json's checksum where that is there; OSError."""
    path, record = run / "history.csv", run / "provenance.json"
    if record.is_file() and read_json(record)["files"].get(path.name) != file_sha256(path):
        raise StoreError(f"{path} is damaged (its checksum does not fit)")
    return [row["loss"] for row in read_history(path)]


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Draw loss curves of stored runs."
    parser = argparse.ArgumentParser(prog="python -m labreport.tools.curves", description=about)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, with its history.csv")
    parser.add_argument("--output", type=Path, default=Path("curves.pdf"), help="PDF, SVG or PNG (default curves.pdf)")
    options = parser.parse_args(arguments)
    try:
        losses = {run.name: read_losses(run) for run in options.runs}
        drawn = {name: values for name, values in losses.items() if values}  # an untrained encoder has no losses
        if not drawn:
            raise ValueError("none of these runs has a loss: give the folder of a trained one")
        loss_curves(drawn).savefig(options.output)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Loss curves from run folders alone: `python -m labreport.curves runs/cifar10-* --output curves.pdf`.

Needs no data, no weights, no GPU and no notebook: only each folder's history.csv.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from labreport.figures import loss_curves
from simclr_core.runs import read_history


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m labreport.curves", description="Draw loss curves of stored runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, with its history.csv")
    parser.add_argument("--output", type=Path, default=Path("curves.pdf"), help="PDF, SVG or PNG (default curves.pdf)")
    options = parser.parse_args(arguments)
    try:
        losses = {run.name: [row["loss"] for row in read_history(run / "history.csv")] for run in options.runs}
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

"""Kill a watched fit at random moments, resume it, and hold its curves against an unbroken run's.

``python benchmarks/kill_and_resume.py [10]`` prints a line for each kill.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kills import alike, chosen, compared, fit, killed, moments, recorded, shown

HEAD = "| seed | killed at | points | missing | duplicate | max abs. difference | bytes agree |"


def main(kills: int) -> int:
    """Print the table; the number of kills that left a trace is returned."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    broken = 0
    with tempfile.TemporaryDirectory() as place:
        tell, kinds = moments()
        fit(Path(place) / "whole", tell)
        curves = shown(Path(place) / "whole")
        print(f"{HEAD}\n|{'---|' * HEAD.count(' |')}")
        for seed in range(kills):
            folder, moment = Path(place) / str(seed), chosen(kinds, seed)
            folder.mkdir()
            kind = killed(folder, moment)
            fit(folder)
            found, agree = compared(shown(folder), curves), alike(shown(folder), recorded(folder))
            broken += not agree or bool(found.missing or found.duplicate or found.gap)
            print(
                f"| {seed} | {moment} of {len(kinds)}, {kind} | {found.points} | {found.missing} "
                f"| {found.duplicate} | {found.gap:g} | {'yes' if agree else 'no'} |",
                flush=True,
            )
    return broken


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))

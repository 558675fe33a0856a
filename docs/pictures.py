"""Make the pictures of the documentation from the demo's run: `make demo`, then run this.

python docs/pictures.py runs/demo/version_0
"""

from __future__ import annotations

import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WANTED = {
    "saliency/gradient/filmstrip": (-1, "demo-filmstrip.jpg"),
    "saliency/class_models": (-1, "demo-class-models.jpg"),
    "saliency/gradient": (5, "demo-grid.jpg"),  # epoch 4: what changed when the data was mended
}


def main(run: str) -> None:
    """Copy the wanted pictures out of the run's event file."""
    events = EventAccumulator(run, size_guidance={"images": 0})
    events.Reload()
    for tag, (index, name) in WANTED.items():
        path = Path(__file__).parent / "images" / name
        path.write_bytes(events.Images(tag)[index].encoded_image_string)
        print(f"{tag} → {path.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])

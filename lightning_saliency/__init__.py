"""Where a model looks, and how that shifts while it trains.

The public names are imported when they are first asked for: TensorBoard imports this package
without torch, and `import lightning` takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_saliency.alerts import Alerts as Alerts
    from lightning_saliency.alerts import Chart as Chart
    from lightning_saliency.attribution import LIME as LIME
    from lightning_saliency.attribution import RISE as RISE
    from lightning_saliency.attribution import AblationCAM as AblationCAM
    from lightning_saliency.attribution import AttentionRollout as AttentionRollout
    from lightning_saliency.attribution import BlurIG as BlurIG
    from lightning_saliency.attribution import Captum as Captum
    from lightning_saliency.attribution import DeconvNet as DeconvNet
    from lightning_saliency.attribution import DeepLIFT as DeepLIFT
    from lightning_saliency.attribution import EigenCAM as EigenCAM
    from lightning_saliency.attribution import FullGrad as FullGrad
    from lightning_saliency.attribution import GradCAM as GradCAM
    from lightning_saliency.attribution import GradCAMPlusPlus as GradCAMPlusPlus
    from lightning_saliency.attribution import GradientRollout as GradientRollout
    from lightning_saliency.attribution import GradientSHAP as GradientSHAP
    from lightning_saliency.attribution import GuidedBackprop as GuidedBackprop
    from lightning_saliency.attribution import GuidedIG as GuidedIG
    from lightning_saliency.attribution import HiResCAM as HiResCAM
    from lightning_saliency.attribution import InputXGradient as InputXGradient
    from lightning_saliency.attribution import IntegratedGradients as IntegratedGradients
    from lightning_saliency.attribution import KernelSHAP as KernelSHAP
    from lightning_saliency.attribution import LayerCAM as LayerCAM
    from lightning_saliency.attribution import LayerGradientAttention as LayerGradientAttention
    from lightning_saliency.attribution import Method as Method
    from lightning_saliency.attribution import Occlusion as Occlusion
    from lightning_saliency.attribution import Saliency as Saliency
    from lightning_saliency.attribution import ScoreCAM as ScoreCAM
    from lightning_saliency.attribution import SmoothGrad as SmoothGrad
    from lightning_saliency.attribution import SmoothGradSquared as SmoothGradSquared
    from lightning_saliency.attribution import TenView as TenView
    from lightning_saliency.attribution import VarGrad as VarGrad
    from lightning_saliency.attribution import XGradCAM as XGradCAM
    from lightning_saliency.audits import Audits as Audits
    from lightning_saliency.class_models import ClassModel as ClassModel
    from lightning_saliency.errors import ConfigurationError as ConfigurationError
    from lightning_saliency.errors import ObservationError as ObservationError
    from lightning_saliency.faithfulness import Faithfulness as Faithfulness
    from lightning_saliency.localisation import Localisation as Localisation
    from lightning_saliency.localisation import localisation_error as localisation_error
    from lightning_saliency.localisation import localise as localise
    from lightning_saliency.localisation import salient_region as salient_region
    from lightning_saliency.measures import Drift as Drift
    from lightning_saliency.measures import Grounding as Grounding
    from lightning_saliency.measures import Shape as Shape
    from lightning_saliency.measures import Stimulus as Stimulus
    from lightning_saliency.monitor import SaliencyMonitor as SaliencyMonitor
    from lightning_saliency.notebook import explain as explain
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
    "alerts": "Alerts Chart",
    "attribution": (
        "AblationCAM AttentionRollout BlurIG Captum DeconvNet DeepLIFT EigenCAM FullGrad "
        "GradCAM GradCAMPlusPlus GradientRollout GradientSHAP GuidedBackprop GuidedIG "
        "HiResCAM InputXGradient IntegratedGradients KernelSHAP LIME LayerCAM "
        "LayerGradientAttention Method Occlusion RISE Saliency ScoreCAM SmoothGrad "
        "SmoothGradSquared TenView VarGrad XGradCAM"
    ),
    "audits": "Audits",
    "class_models": "ClassModel",
    "errors": "ConfigurationError ObservationError",
    "faithfulness": "Faithfulness",
    "localisation": "Localisation localisation_error localise salient_region",
    "measures": "Drift Grounding Shape Stimulus",
    "monitor": "SaliencyMonitor",
    "notebook": "explain",
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

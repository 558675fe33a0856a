"""Alerts: where the evidence goes, charted over a fit, and when a person should look."""

from __future__ import annotations

from lightning_saliency.alerts.chart import Chart
from lightning_saliency.alerts.settings import Alerts

__all__ = ["Alerts", "Chart"]

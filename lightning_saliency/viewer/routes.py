"""What the plugin serves: three documents and a fixed list of files.

Every address is relative to the plugin's own, so that `--path_prefix` and proxies do no harm. A
path or a key that is not known is answered with 404, whatever it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from tensorboard.util import tb_logging
from werkzeug import wrappers

from lightning_saliency.record import RecordError
from lightning_saliency.viewer.files import MODULES, STATIC, STYLE
from lightning_saliency.viewer.plugin import PLUGIN
from lightning_saliency.viewer.reading import Reader

logger = tb_logging.get_logger()

App = Callable[..., Any]

_JSON, _BYTES, _TEXT = "application/json", "application/octet-stream", "text/plain"


class SaliencyPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # tensorboard is not typed
    """The Saliency tab.

    Args:
        context: whose data provider is read; nothing else of it.
    """

    plugin_name = PLUGIN

    def __init__(self, context: Any) -> None:
        self._provider = context.data_provider

    def is_active(self) -> bool:
        return False  # TensorBoard shows the tab as soon as a series has the plugin's name

    def frontend_metadata(self) -> Any:
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Saliency")

    def get_plugin_apps(self) -> Mapping[str, App]:
        files = {f"/{name}": _file(STATIC / name, "text/javascript") for name in MODULES}
        files |= {f"/{STYLE}": _file(STATIC / STYLE, "text/css")}
        documents = {"/index": self._index, "/series": self._series, "/blob": self._blob}
        return files | {path: _answering(one) for path, one in documents.items()}

    def _reader(self, request: Any) -> Reader:
        environ = request.environ
        return Reader(
            self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ)
        )

    def _index(self, request: Any) -> Any:
        return _document(request, self._reader(request).index())

    def _series(self, request: Any) -> Any:
        run, monitor = request.args.get("run", ""), request.args.get("monitor", "")
        try:
            return _document(request, self._reader(request).series(run, monitor))
        except RecordError as error:
            return _document(request, {"refused": str(error)})

    def _blob(self, request: Any) -> Any:
        blob = self._reader(request).blob(request.args["key"])
        return http_util.Respond(request, blob, _BYTES)


def _answering(answer: Callable[[Any], Any]) -> App:
    """A WSGI application; what can't be answered isn't there."""

    @wrappers.Request.application
    def app(request: Any) -> Any:
        try:
            return answer(request)
        except Exception as error:  # of a provider, with errors of its own for what isn't there
            logger.info("%s: %s: %s", request.full_path, type(error).__name__, error)
            return http_util.Respond(request, "not found", _TEXT, code=404)

    return app


def _document(request: Any, document: Mapping[str, Any]) -> Any:
    # Not by `Respond`, which would look at each of some 100,000 numbers in turn.
    return http_util.Respond(request, json.dumps(document, separators=(",", ":")), _JSON)


def _file(path: Path, kind: str) -> App:
    @wrappers.Request.application
    def app(request: Any) -> Any:
        # Python would ask the machine for the type, and browsers run no module of another one.
        return http_util.Respond(request, path.read_bytes(), kind)

    return app

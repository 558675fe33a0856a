"""What either of TensorBoard's readers finds of a log directory, asked as a plugin asks."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import grpc  # type: ignore[import-untyped]
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.data import grpc_provider, server_ingester

from lightning_saliency.record.format import PLUGIN

Reader = Literal["server", "python"]


def _served() -> bool:
    """Whether there is a data server for this machine; TensorBoard does without."""
    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        return False
    return True


READERS: tuple[Reader, ...] = ("server", "python") if _served() else ("python",)
"""``--load_fast=true`` and ``--load_fast=false``."""

ALL = 10**6

Found = dict[str, dict[str, list[tuple[int, Any]]]]
"""Run → tag → steps, in order, and what is there: blobs, or the bytes of a tensor."""


@contextmanager
def provider(logdir: Path, reader: Reader) -> Iterator[Any]:
    """A data provider that keeps every step of our plugin, as its `fix_flags` asks for."""
    with ExitStack() as scope:
        if reader == "python":
            kept = {PLUGIN: 0}
            multiplexer = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance=kept)
            multiplexer.AddRunsFromDirectory(str(logdir))
            multiplexer.Reload()
            yield data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
            return
        yield grpc_provider.GrpcDataProvider("", scope.enter_context(_server(logdir)))


@contextmanager
def _server(logdir: Path) -> Iterator[Any]:
    """A data server that reads the directory once, by its stub; it ends with its input."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "port")
        command = [
            server_ingester.get_server_binary().path,
            f"--logdir={logdir}",
            "--reload=once",
            f"--samples-per-plugin={PLUGIN}=all",
            "--port=0",
            f"--port-file={told}",
            "--die-after-stdin",
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
            while not (told.exists() and told.read_text().endswith("\n")):
                assert server.poll() is None
                time.sleep(0.01)
            local = grpc.local_channel_credentials()
            with grpc.secure_channel(f"localhost:{int(told.read_text())}", local) as channel:
                yield grpc_provider.make_stub(channel)


def seen(logdir: Path, reader: Reader) -> Found:
    """All that a reader shows of our plugin's record."""
    found: Found = {}
    with provider(logdir, reader) as source:
        asked: dict[str, Any] = {"experiment_id": "", "plugin_name": PLUGIN}
        ctx = context.RequestContext()
        blobs = source.read_blob_sequences(ctx, **asked, downsample=ALL)
        for run, tags in blobs.items():
            for tag, line in tags.items():
                found.setdefault(run, {})[tag] = [
                    (
                        datum.step,
                        [source.read_blob(ctx, blob_key=one.blob_key) for one in datum.values],
                    )
                    for datum in line
                ]
        tensors = source.read_tensors(ctx, **asked, downsample=ALL)
        for run, tags in tensors.items():
            for tag, line in tags.items():
                if "/record/" in tag:
                    found.setdefault(run, {})[tag] = [(one.step, one.numpy.item()) for one in line]
    return found

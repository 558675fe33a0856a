"""The record's series as TensorBoard's summaries: tags, metadata, protocol buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning_saliency.record.format import PLUGIN
from lightning_saliency.record.versions import VERSION, dumped

Kind = Literal["probes", "maps", "observations"]


def summary(
    monitor: str,
    maps: Mapping[str, bytes],
    observation: bytes,
    probes: Sequence[bytes] | None = None,
) -> Any:
    """The summary of one observation: one event, so that it is there as a whole or not at all.

    Args:
        monitor: its name.
        maps: method → what `encode_maps` gave.
        observation: what `Observation.encoded` gave.
        probes: what `ProbeSheet.encoded` gave, where they are not in the event file yet.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [] if probes is None else [_value(monitor, "probes", probes)]
    values += [_value(monitor, "maps", [blob], method) for method, blob in maps.items()]
    return Summary(value=[*values, _value(monitor, "observations", observation)])


def tag_of(monitor: str, kind: Kind, method: str | None = None) -> str:
    """The tag of a series."""
    return f"{monitor}/record/{kind}" + ("" if method is None else f"/{method}")


def _value(
    monitor: str, kind: Kind, content: bytes | Sequence[bytes], method: str | None = None
) -> Any:
    """One value: a sequence of blobs, or, of bytes alone, a scalar tensor."""
    from tensorboard.compat.proto import summary_pb2 as proto
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    blobs = [content] if isinstance(content, bytes) else list(content)
    dims = [] if isinstance(content, bytes) else [TensorShapeProto.Dim(size=len(blobs))]
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(dim=dims), string_val=blobs)
    about = {"version": VERSION, "series": kind, "monitor": monitor}
    plugin = proto.SummaryMetadata.PluginData(
        plugin_name=PLUGIN,
        content=dumped(about if method is None else {**about, "method": method}),
    )
    metadata = proto.SummaryMetadata(
        plugin_data=plugin,
        data_class=proto.DATA_CLASS_BLOB_SEQUENCE if dims else proto.DATA_CLASS_TENSOR,
    )
    return proto.Summary.Value(tag=tag_of(monitor, kind, method), tensor=tensor, metadata=metadata)

"""Attention: heads and value dimensions go; key dimensions stay, scores are sums over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.labels import Keep
from edgeprune.tracing.rules.registry import Labels, Tracing, place, rule


@rule(layers.MultiHeadAttention)
def attend(tracing: Tracing, layer: Any, *inputs: Labels) -> list[Labels]:
    """Query, key and value write heads, value writes its dimensions; the output reads both."""
    given = dict(tracing.by_argument(inputs))
    path = tracing.call.path
    sources: dict[str, Labels] = {
        name: given.pop(name) for name in ("query", "key", "value") if name in given
    }
    if given or not sources.keys() >= {"query", "value"} or len(layer._output_shape or ()) > 1:
        return tracing.opaque(f"'{path}' (MultiHeadAttention) is called in an unusual way", inputs)
    sources.setdefault("key", sources["value"])
    parts = {"query": layer._query_dense, "key": layer._key_dense, "value": layer._value_dense}
    if getattr(layer, "_use_gate", False):  # Keras before 3.12 has no gate
        parts["gate"], sources["gate"] = layer._gate_dense, sources["query"]

    output = layer._output_dense
    heads = tracing.use(output.kernel, 0, "reads")
    dimensions = tracing.use(output.kernel, 1, "reads")
    for name, part in parts.items():
        size = part.kernel.shape[0]
        read = tracing.space.collapse(tracing.pass_spatial(sources[name], -1, size), -1)
        tracing.use(part.kernel, 0, "reads", np.broadcast_to(read, (size,)))
        for weight, axis in ((part.kernel, 1), (part.bias, 0)):
            tracing.use(weight, axis, "writes", heads)
            if name in ("value", "gate"):
                tracing.use(weight, axis + 1, "writes", dimensions)
    made = tracing.use(output.kernel, 2, "writes")
    tracing.use(output.bias, 0, "writes", made)

    tracing.count("num_heads", heads)
    tracing.count("value_dim", dimensions)
    tracing.change_config(_count_outputs(made))
    results = [place(made, -1, len(tracing.output_shapes[0]))]
    if len(tracing.call.outputs) > 1:
        results.append(place(heads, 0, len(tracing.output_shapes[1])))
    return results


def _count_outputs(made: Labels) -> Any:
    """Name the size of the output, which otherwise is that of the query."""

    def change(config: dict[str, Any], keep: Keep) -> None:
        config["output_shape"] = (len(keep(made)),)

    return change

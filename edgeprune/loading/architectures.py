"""A Keras 3 model from the configuration that any Keras since 1.2 wrote, built call by call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading import hard_sigmoids, repairs, vocabulary
from edgeprune.loading import tensorflow_calls as operations
from edgeprune.loading.entries import (
    entry_name,
    entry_names,
    explained,
    implied_input,
    input_tensor,
    is_model_entry,
    renamed_entry,
    unbuildable,
)
from edgeprune.loading.formats import WRITTEN_AS_CLASS
from edgeprune.loading.layer_calls import CallGraph, only
from edgeprune.loading.parts import Architecture, Part


def build_architecture(
    config: dict[str, Any], generation: int, custom_objects: Mapping[str, Any] | None = None
) -> Architecture:
    """Build the model a configuration describes.

    Args:
        config: of a Functional or Sequential model, in plain JSON types, checked for safety.
        generation: major version of the Keras that wrote it, 2 or 3; that of Keras 1 has been
            upgraded.
        custom_objects: classes, functions and replacements of Lambda layers, by name.

    Raises:
        ModelError: a layer cannot be rebuilt, by name and class and with the reason.
    """
    try:
        model = _Builder(generation, dict(custom_objects or {})).model(config).part
    except ModelError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"The configuration of the model is damaged ({error!r}).") from error
    if model is None or not model.layer.built:
        raise ModelError(
            "The model has no input shape, so its layers have no weights yet. Call it once on a "
            "sample, or begin it with keras.Input(shape), and save it again."
        )
    return Architecture(model.layer, model.parts)


@dataclass(frozen=True)
class _Step:
    """What to call for one entry of a configuration; calls into TensorFlow have no part."""

    call: Callable[..., Any]
    part: Part | None = None


class _Builder:
    def __init__(self, generation: int, custom_objects: dict[str, Any]) -> None:
        self.generation = generation
        self.is_old = generation < 3
        self.custom_objects = custom_objects

    def model(self, entry: dict[str, Any]) -> _Step:
        config = entry["config"]
        if isinstance(config, list):  # Sequential, before Keras 2.2.3
            config = {"name": entry.get("name") or "sequential", "layers": config}
        if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
            name = entry.get("name")
            subject = f"Layer '{name}'" if name else "The file"
            raise ModelError(WRITTEN_AS_CLASS.format(subject, entry["class_name"]))
        name = str(entry.get("name") or config.get("name") or "model").replace("/", "_")
        build = self.sequential if entry["class_name"] == "Sequential" else self.functional
        model, parts = build(config, name)
        part = Part(name, model, parts=tuple(parts))
        return _Step(model, part)

    def sequential(self, config: dict[str, Any], name: str) -> tuple[keras.Model, list[Part]]:
        entries = list(config["layers"])
        if entries and entries[0]["class_name"] != "InputLayer":
            entries = [*implied_input(entries[0], config), *entries]
        names = repairs.unique_names(entry_names(entries))
        layers: list[Any] = []
        parts = []
        for original in entries:
            entry = renamed_entry(original, names[entry_name(original)])
            if entry["class_name"] == "InputLayer":
                layers.append(input_tensor(entry["config"]))
                continue
            part = self.step(entry).part
            if part is None:
                raise unbuildable(entry, "a bare call cannot stand in a Sequential model")
            if not layers and part.layer.built:
                layers += [
                    keras.Input(batch_shape=x.shape, dtype=x.dtype, name=f"{part.name}_input")
                    for x in part.layer.inputs
                ]
            if self.is_old and hard_sigmoids.is_activation_layer(entry):
                layers.append(hard_sigmoids.layer_before(entry["name"]))
            layers.append(part.layer)
            parts.append(replace(part, name=entry_name(original)))
        with explained({"class_name": "Sequential", "config": {}, "name": name}):
            return keras.Sequential(layers, name=name), parts

    def functional(self, config: dict[str, Any], name: str) -> tuple[keras.Model, list[Part]]:
        names = repairs.unique_names(entry_names(config["layers"]))
        graph = CallGraph(config["layers"])
        parts = []
        for original in config["layers"]:
            old_name = entry_name(original)
            entry = renamed_entry(original, names[old_name])
            if entry["class_name"] == "InputLayer":
                graph.add_input(old_name, input_tensor(entry["config"]))
                continue
            step = self.step(entry)
            if step.part is not None:
                parts.append(replace(step.part, name=old_name))
            call = step.call
            if self.is_old and hard_sigmoids.is_activation_layer(entry):
                call = _chained(hard_sigmoids.layer_before(entry["name"]), call)
            graph.add_layer(old_name, entry["name"], call)
        graph.run()
        inputs = graph.structure(config["input_layers"])
        outputs = graph.structure(config["output_layers"])
        if self.is_old:
            inputs, outputs = only(inputs), only(outputs)
        return keras.Model(inputs, outputs, name=name), parts

    def step(self, entry: dict[str, Any]) -> _Step:
        """Make what one entry calls: a layer, a nested model, an operation or a replacement."""
        class_name, config = entry["class_name"], entry["config"]
        if class_name == "Lambda" and entry["name"] in self.custom_objects:
            return _replacement(entry, self.custom_objects[entry["name"]])
        registered = entry.get("registered_name") or class_name
        custom_class = keras.saving.get_registered_object(registered, self.custom_objects)
        custom_class = custom_class or self.custom_objects.get(class_name)
        if custom_class is not None and is_model_entry(entry):
            return self.model(entry)
        if custom_class is not None:
            return self.layer(entry, custom_class, config)
        if class_name in vocabulary.TENSORFLOW_CALLS:
            return _Step(_tensorflow_call(entry))
        if class_name in vocabulary.MODEL_CLASSES or class_name == "Sequential":
            return self.model(entry)
        if not self.is_old and _is_operation(entry):
            return _Step(vocabulary.operation_classes()[class_name].from_config(config))
        canonical = vocabulary.RENAMED_CLASSES.get(class_name, class_name)
        layer_class = vocabulary.layer_classes().get(canonical)
        if layer_class is None:
            raise unbuildable(entry, "Keras 3 has no such layer any more")
        if isinstance(config.get("layer"), dict):
            return self.wrapper(entry, layer_class)
        return self.layer(entry, layer_class, self.repaired(entry, config, layer_class))

    def repaired(
        self, entry: dict[str, Any], config: dict[str, Any], layer_class: Any
    ) -> dict[str, Any]:
        if self.is_old:
            return repairs.repair_layer(entry["class_name"], config, layer_class)
        return {**config, "dtype": repairs.policy_name(config.get("dtype"))}

    def layer(self, entry: dict[str, Any], layer_class: Any, config: dict[str, Any]) -> _Step:
        config = dict(config)
        for key in repairs.ACTIVATION_KEYS:
            name = config.get(key)
            if isinstance(name, str) and name in self.custom_objects:  # Keras 3 wants it said
                config[key] = {"class_name": "function", "config": name, "registered_name": name}
        with explained(entry), keras.saving.custom_object_scope(self.custom_objects):
            layer = layer_class.from_config(config)
        scaled = self.is_old and hard_sigmoids.needs_scaling(layer)
        call = _recurrent(layer) if isinstance(layer, keras.layers.RNN) and self.is_old else layer
        return _Step(call, Part(entry["name"], layer, scaled))

    def wrapper(self, entry: dict[str, Any], layer_class: Any) -> _Step:
        """Make a layer around another, which may be a whole model."""
        config = dict(entry["config"])
        inner = self.inner(config.pop("layer"))
        if isinstance(config.get("backward_layer"), dict):
            config["backward_layer"] = self.inner(config["backward_layer"]).layer
        with explained(entry):
            layer = layer_class(inner.layer, **self.repaired(entry, config, layer_class))
        parts: tuple[Part, ...] = (replace(inner, name="layer"),)
        if isinstance(layer, keras.layers.Bidirectional):
            parts = tuple(
                replace(inner, name=name, layer=getattr(layer, name))
                for name in ("forward_layer", "backward_layer")
            )
        return _Step(layer, Part(entry["name"], layer, parts=parts))

    def inner(self, entry: dict[str, Any]) -> Part:
        part = self.step(renamed_entry(entry, entry_name(entry).replace("/", "_"))).part
        if part is None:
            raise unbuildable(entry, "a bare call cannot be wrapped")
        return part


def _replacement(entry: dict[str, Any], given: Any) -> _Step:
    """Take the user's word for what a Lambda layer computes."""
    if not isinstance(given, keras.Layer):
        return _Step(given)
    layer = type(given).from_config({**given.get_config(), "name": entry["name"]})
    return _Step(layer, Part(entry["name"], layer))


def _tensorflow_call(entry: dict[str, Any]) -> Callable[..., Any]:
    def call(inputs: Any, **arguments: Any) -> Any:
        return operations.call(entry["class_name"], entry["config"], inputs, arguments)

    return call


def _recurrent(layer: keras.Layer) -> Callable[..., Any]:
    """Call a recurrent layer as Keras 2 recorded it: initial states follow the input in a list."""

    def call(inputs: Any, **arguments: Any) -> Any:
        if isinstance(inputs, list):
            inputs, arguments = inputs[0], {**arguments, "initial_state": inputs[1:]}
        return layer(inputs, **arguments)

    return call


def _chained(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    return lambda inputs, **arguments: second(first(inputs), **arguments)


def _is_operation(entry: dict[str, Any]) -> bool:
    """Tell an operation from the layer of the same name: layers save whether they are trainable."""
    return (
        entry["class_name"] in vocabulary.operation_classes() and "trainable" not in entry["config"]
    )

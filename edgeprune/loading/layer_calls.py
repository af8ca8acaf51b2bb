"""The calls between the layers of a functional model, made in the order in which inputs exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading.entries import entry_name, explained, is_model_entry

_CONSTANT = "_CONSTANT_VALUE"


class CallGraph:
    """Calls that wait for their inputs, and the tensors made so far.

    A configuration lists for each layer the nodes: one per call, each with references
    `[layer, node, tensor, arguments]` to the inputs. Keras 3 writes `{"args": ..., "kwargs": ...}`.
    """

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = {entry_name(entry): entry for entry in entries}
        self._outputs: dict[str, list[list[Any]]] = {}
        self._waiting: dict[str, tuple[str, Callable[..., Any], list[Any]]] = {}
        self._referenced: dict[str, set[int]] = {}
        self._names = set(self._entries)
        for entry in entries:
            for reference in self._references(entry.get("inbound_nodes") or []):
                self._referenced.setdefault(reference[0], set()).add(reference[1])

    def add_input(self, name: str, tensor: Any) -> None:
        """Set the tensor of an InputLayer."""
        self._outputs[name] = [[tensor]]

    def add_layer(self, name: str, new_name: str, call: Callable[..., Any]) -> None:
        """Queue the calls of a layer.

        Args:
            name: as in the configuration.
            new_name: for the operations that the call makes, if it is not a layer itself.
            call: takes the inputs, and the arguments by name.
        """
        nodes = list(self._entries[name].get("inbound_nodes") or [])
        self._names.add(new_name)
        self._waiting[name] = (new_name, call, nodes)

    def run(self) -> None:
        """Make every call once its inputs exist; a shared layer is called once per node.

        Raises:
            ModelError: an input does not exist, or a layer does not accept its inputs.
        """
        progress = True
        while self._waiting and progress:
            progress = False
            for name, (new_name, call, nodes) in list(self._waiting.items()):
                while nodes and self._is_ready(nodes[0]):
                    with explained(self._entries[name]):
                        outputs = self._call(call, nodes.pop(0), new_name)
                    self._outputs.setdefault(name, []).append(outputs)
                    progress = True
                if not nodes:
                    del self._waiting[name]
                    progress = True
        if self._waiting:
            names = ", ".join(f"'{name}'" for name in list(self._waiting)[:5])
            raise ModelError(f"The configuration is damaged: the inputs of {names} do not exist.")

    def structure(self, value: Any) -> Any:
        """Put tensors in the place of references, in any nesting of lists and dicts."""
        if self._is_reference(value):
            return self._tensor(value)
        if isinstance(value, list):
            if len(value) >= 3 and value[0] == _CONSTANT:
                return value[2]
            return [self.structure(item) for item in value]
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                return self._tensor(value["config"]["keras_history"])
            if set(value) == {"class_name", "config"}:
                return keras.saving.deserialize_keras_object(value, safe_mode=True)
            return {key: self.structure(item) for key, item in value.items()}
        return value

    def _call(self, call: Callable[..., Any], node: Any, new_name: str) -> list[Any]:
        args, kwargs = self._arguments(node)
        outputs: list[Any] = keras.tree.flatten(call(*args, **kwargs))
        if not isinstance(call, keras.Layer):
            _rename_operations(outputs, keras.tree.flatten((args, kwargs)), new_name, self._names)
        return outputs

    def _arguments(self, node: Any) -> tuple[list[Any], dict[str, Any]]:
        if isinstance(node, dict) and set(node) == {"args", "kwargs"}:
            return self.structure(node["args"]), self.structure(node["kwargs"])
        arguments: dict[str, Any] = {}
        for reference in self._references(node, with_arguments=False):
            arguments.update((reference[3] if len(reference) == 4 else None) or {})
        for name in ("mask", "training", "name"):
            if arguments.get(name, 0) is None:
                del arguments[name]
        return [only(self.structure(node))], self.structure(arguments)

    def _tensor(self, reference: list[Any]) -> Any:
        name, node, index = reference[:3]
        return self._outputs[name][node - self._first_call(name)][index]

    def _first_call(self, name: str) -> int:
        """Give the index of the first call: nested models of Keras 2 count their own making."""
        counts_itself = is_model_entry(self._entries[name]) and 0 not in self._referenced[name]
        return 1 if counts_itself else 0

    def _is_ready(self, node: Any) -> bool:
        references = list(self._references(node))
        if not references and isinstance(node, list):
            return False  # names a layer that is not there
        return all(
            len(self._outputs.get(name, [])) > index - self._first_call(name)
            for name, index, *_ in references
        )

    def _is_reference(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) in (3, 4)
            and isinstance(value[0], str)
            and value[0] in self._entries
            and all(isinstance(index, int) for index in value[1:3])
        )

    def _references(self, value: Any, with_arguments: bool = True) -> Iterator[list[Any]]:
        """Yield the references in a node, those among the arguments of a call included."""
        if isinstance(value, list):
            known = self._is_reference(value)
            if known or (not with_arguments and value[:1] == [_CONSTANT]):
                yield value
            if known or value[:1] == [_CONSTANT]:
                value = value[3:] if with_arguments else []
            for item in value:
                yield from self._references(item, with_arguments)
        elif isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                yield value["config"]["keras_history"]
                return
            for item in value.values():
                yield from self._references(item, with_arguments)


def only(value: Any) -> Any:
    """Unpack lists of one: where Keras 1 and 2 had one tensor, they wrote a list."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _rename_operations(outputs: list[Any], inputs: list[Any], name: str, taken: set[str]) -> None:
    """Name the operations of one call after its layer: Keras' automatic names may be taken."""
    before = {operation for operation, _ in _histories(inputs)}
    pending, found = _histories(outputs), []
    while pending:
        operation, node_index = pending.pop(0)
        if operation in before or operation in found or isinstance(operation, keras.Layer):
            continue
        found.append(operation)
        pending += _histories(operation._inbound_nodes[node_index].input_tensors)
    count = 0
    for operation in found:
        candidate = name if operation is found[0] else f"{name}_{count}"
        while operation is not found[0] and candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        taken.add(candidate)
        operation.name = candidate


def _histories(tensors: list[Any]) -> list[tuple[Any, int]]:
    return [
        (tensor._keras_history.operation, tensor._keras_history.node_index)
        for tensor in tensors
        if keras.utils.is_keras_tensor(tensor)
    ]

"""What a file asks Keras to run or to read, found in its configuration before Keras sees it.

Keras has guards of its own; several were bypassed over the years, and those of Keras 2 unmarshal
the bytecode of a Lambda layer even in "safe mode". So the configuration is read here as plain data
and only names that Keras itself has, or that the user handed over, may pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading import vocabulary
from edgeprune.loading.tensorflow_calls import called_function, is_known

# Modules that Keras itself writes; it imports whatever else a configuration names.
_OWN_MODULE = re.compile(
    r"builtins|(keras|tf_keras|tensorflow\.keras|tensorflow\.python\.keras)(\.[A-Za-z_]\w*)*"
)
_ACTIVATION_KEYS = frozenset({"activation", "recurrent_activation"})
_FILE_KEYS = frozenset({"vocabulary", "idf_weights"})


@dataclass(frozen=True)
class Finding:
    """Something in a configuration that must not reach Keras."""

    kind: str
    layer: str
    class_name: str
    detail: str = ""


@dataclass(frozen=True)
class _Owner:
    name: str = ""
    class_name: str = ""


def check_configuration(config: Any, origin: str, custom_objects: Mapping[str, Any]) -> None:
    """Refuse a configuration that holds code, foreign classes or paths of files, at any depth.

    Args:
        config: what the file's JSON says, as plain dicts and lists.
        origin: the file's name, for the message.
        custom_objects: names that the user vouches for: classes, functions, and the names of
            Lambda layers for which a replacement is given.

    Raises:
        ModelError: names the layers, their class and the way out.
    """
    _check_root(config, origin, custom_objects)
    try:
        findings = list(_findings(config, _Owner(), custom_objects))
    except RecursionError as error:
        raise ModelError(f"'{origin}' nests its configuration too deeply to be a model.") from error
    if findings:
        same = [found for found in findings if found.kind == findings[0].kind]
        raise ModelError(_MESSAGES[same[0].kind](same, origin))


def _check_root(config: Any, origin: str, custom: Mapping[str, Any]) -> None:
    found = _judge(config, _Owner(), custom)
    if found is not None and found.kind == "unknown":
        class_name, module = found.detail.split("\n")
        inner = config.get("config")
        has_graph = isinstance(inner, dict) and "input_layers" in inner
        given = "keras.Model" if has_graph else class_name
        hint = " if it only adds training code" if has_graph else ""
        raise ModelError(
            f"The model of '{origin}' is of the class '{class_name}' (module '{module}'), which "
            f"Keras does not have. Hand it over, load_model(..., custom_objects={{'{class_name}': "
            f"{given}}}){hint}, or build keras.Model(inputs, outputs) from keras.Input and its "
            "layers in the program that made it, and save that."
        )


def _findings(node: Any, owner: _Owner, custom: Mapping[str, Any]) -> Iterator[Finding]:
    if isinstance(node, list | tuple):
        for item in node:
            yield from _findings(item, owner, custom)
    elif isinstance(node, dict):
        if not isinstance(node.get("class_name", ""), str):
            raise ModelError(
                f"A class in '{owner.name}' is called {node['class_name']!r}: damaged."
            )
        if "class_name" in node:
            owner = _owner_of(node, owner)
            if node["class_name"] == "Lambda" and owner.name in custom:
                return  # replaced as a whole, so nothing in it is used
            found = _judge(node, owner, custom)
            if found is not None:
                yield found
                return
        for key, value in node.items():
            yield from _judge_entry(key, value, owner, custom)
            yield from _findings(value, owner, custom)


def _owner_of(node: dict[str, Any], owner: _Owner) -> _Owner:
    """Give the layer an object belongs to: itself if it has a name, else the one around it."""
    config = node.get("config")
    name = node.get("name") or (config.get("name") if isinstance(config, dict) else None)
    is_policy = node["class_name"] in {"DTypePolicy", "Policy", "PolicyV1"}
    if isinstance(name, str) and not is_policy:
        return _Owner(name, node["class_name"])
    return owner if owner.name else _Owner("(unnamed)", node["class_name"])


def _judge(node: dict[str, Any], owner: _Owner, custom: Mapping[str, Any]) -> Finding | None:
    class_name, config = node["class_name"], node.get("config")
    registered = str(node.get("registered_name") or class_name)
    if class_name in {"Lambda", "__lambda__"}:
        return Finding("code", owner.name, owner.class_name)
    if class_name == "function":
        return _judge_function(node, owner, custom)
    if class_name in custom or registered in custom or _is_registered(registered):
        return None
    if class_name in vocabulary.FOREIGN_CLASSES:
        return Finding("foreign", owner.name, class_name)
    if _is_own(node) and class_name in vocabulary.VALUE_CLASSES:
        return None
    if _is_own(node) and class_name in vocabulary.known_classes():
        return _judge_call(class_name, config, owner)
    module = node.get("module") or "keras"
    return Finding("unknown", owner.name, owner.class_name, f"{class_name}\n{module}")


def _is_own(node: Mapping[str, Any]) -> bool:
    """Whether the module that an object names is one of Keras, which may be imported for it."""
    module = node.get("module")
    return module is None or (isinstance(module, str) and bool(_OWN_MODULE.fullmatch(module)))


def _judge_function(
    node: Mapping[str, Any], owner: _Owner, custom: Mapping[str, Any]
) -> Finding | None:
    config = node.get("config")
    if not isinstance(config, str):
        return Finding("code", owner.name, owner.class_name)
    if config in custom or _is_registered(config):
        return None
    if not _is_own(node):
        return Finding("unknown", owner.name, owner.class_name, f"{config}\n{node['module']}")
    if config in vocabulary.known_functions():
        return None
    return Finding("function", owner.name, owner.class_name, config)


def _judge_call(class_name: str, config: Any, owner: _Owner) -> Finding | None:
    """Judge a layer that is a call into TensorFlow: only known calls pass, never files or code."""
    if class_name not in vocabulary.TENSORFLOW_CALLS:
        return None
    function = called_function(class_name, config if isinstance(config, dict) else {})
    return None if is_known(function) else Finding("call", owner.name, class_name, function)


def _judge_entry(
    key: Any, value: Any, owner: _Owner, custom: Mapping[str, Any]
) -> Iterator[Finding]:
    if not isinstance(value, str):
        return
    if str(key).endswith("_type") and value == "lambda":
        yield Finding("code", owner.name, owner.class_name)
    elif owner.class_name in custom:
        return  # what its settings mean is up to the user's class
    elif key in _FILE_KEYS:
        yield Finding("file", owner.name, owner.class_name, value)
    elif (
        key in _ACTIVATION_KEYS
        and value not in vocabulary.known_functions()
        and value not in vocabulary.known_classes()
        and value not in custom
        and not _is_registered(value)
    ):
        yield Finding("function", owner.name, owner.class_name, value)


def _is_registered(name: str) -> bool:
    return keras.saving.get_registered_object(name) is not None


def _layers(findings: list[Finding], with_class: bool = True) -> str:
    names = list(dict.fromkeys(found.layer for found in findings))
    quoted = ", ".join(f"'{name}'" for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    suffix = f" ({findings[0].class_name})" if with_class and findings[0].class_name else ""
    return f"Layer{'s' if len(names) > 1 else ''} {quoted}{more}{suffix}"


def _code(findings: list[Finding], origin: str) -> str:
    first = findings[0]
    holds = "holds" if len({found.layer for found in findings}) == 1 else "hold"
    say = ""
    if first.class_name == "Lambda":
        say = (
            f"Say what each computes, load_model(..., custom_objects={{'{first.layer}': Keras "
            "layer or function of tensors}), or rebuild"
        )
    return (
        f"{_layers(findings)} of '{origin}' {holds} Python code, which edgeprune never runs. "
        f"{say or 'Rebuild'} the model with Keras layers in their place and save it again."
    )


def _foreign(findings: list[Finding], origin: str) -> str:
    return (
        f"{_layers(findings)} of '{origin}' wraps a program of another framework, which edgeprune "
        "never runs. Rebuild it with Keras layers and save the model again."
    )


def _unknown(findings: list[Finding], origin: str) -> str:
    class_name, module = findings[0].detail.split("\n")
    same = [found for found in findings if found.detail == findings[0].detail]
    of_itself = findings[0].class_name == class_name
    where = "" if module in ("keras", "builtins") else f" (module '{module}')"
    return (
        f"{_layers(same, with_class=not of_itself)} of '{origin}' {'is' if of_itself else 'uses'} "
        f"'{class_name}'{where}, which Keras does not have. Hand it over, load_model(..., "
        f"custom_objects={{'{class_name}': {class_name}}}), or rebuild it with Keras layers and "
        "save the model again."
    )


def _function(findings: list[Finding], origin: str) -> str:
    name = findings[0].detail
    return (
        f"{_layers(findings[:1])} of '{origin}' uses the function '{name}', which Keras does not "
        f"have. Hand it over, load_model(..., custom_objects={{'{name}': function}})."
    )


def _call(findings: list[Finding], origin: str) -> str:
    return (
        f"{_layers(findings[:1])} of '{origin}' calls TensorFlow's '{findings[0].detail}', for "
        "which edgeprune knows no Keras counterpart. Rebuild it with Keras layers and save the "
        "model again."
    )


def _file(findings: list[Finding], origin: str) -> str:
    return (
        f"{_layers(findings[:1])} of '{origin}' asks to read the file '{findings[0].detail}', "
        "which edgeprune does not do. Save the model from the numbers on, without this layer."
    )


_MESSAGES = {
    "code": _code,
    "foreign": _foreign,
    "unknown": _unknown,
    "function": _function,
    "call": _call,
    "file": _file,
}

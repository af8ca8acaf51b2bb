"""What Keras is given instead of a file's configuration: one rewritten from names that are known.

Keras has guards of its own; several were bypassed over the years, and those of Keras 2 unmarshal
the bytecode of a Lambda layer even in "safe mode". So the configuration is read here as plain
data, only names that Keras itself has, or that the user handed over, pass, and where a class lives
is said by us: no module that a file names ever reaches something that imports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading import vocabulary
from edgeprune.loading.repairs import ACTIVATION_KEYS
from edgeprune.loading.tensorflow_calls import called_function, is_known
from edgeprune.loading.third_party import translate_function, translate_layer

# Modules in which Keras itself, by the names it had, says that its classes live.
_OWN_MODULE = re.compile(
    r"builtins|(keras|tf_keras|tensorflow\.keras|tensorflow\.python\.keras)(\.[A-Za-z_]\w*)*"
)
_FILE_KEYS = frozenset({"vocabulary", "idf_weights"})
_OBJECT_KEYS = ("name", "config", "items", "build_config", "shared_object_id", "inbound_nodes")
# What matters to training only, and what stands in for one that Keras does not have.
_WITHOUT_EFFECT = {"initializer": "zeros", "regularizer": None, "constraint": None}


@dataclass(frozen=True)
class Finding:
    """Something in a configuration that must not reach Keras."""

    kind: str
    layer: str
    class_name: str
    detail: str = ""


@dataclass(frozen=True)
class _Owner:
    """The layer that an entry belongs to, and the class of the innermost object around it."""

    name: str = ""
    class_name: str = ""
    innermost: str = ""


def rewrite_configuration(
    config: dict[str, Any], origin: str, generation: int, custom_objects: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a configuration that says the same and can be given to Keras.

    Initializers, regularizers and constraints that Keras does not have are left out: they do
    nothing once a model is trained. So are the settings of training.

    Args:
        config: what the file's JSON says, as plain dicts and lists.
        origin: the file's name, for the message.
        generation: major version of the Keras that wrote it; before 3, objects name no module.
        custom_objects: names that the user vouches for: classes, functions, and the names of
            Lambda layers for which a replacement is given.

    Raises:
        ModelError: it holds code, foreign classes or paths of files, at any depth: names the
            layers, their class and the way out.
    """
    rewriter = _Rewriter(generation, custom_objects)
    try:
        made: dict[str, Any] = rewriter.rewrite(config, _Owner())
    except RecursionError as error:
        raise ModelError(f"'{origin}' nests its configuration too deeply to be a model.") from error
    findings = rewriter.findings
    if findings:
        if rewriter.foreign_root:
            raise ModelError(_root(config, findings[0], origin))
        same = [found for found in findings if found.kind == findings[0].kind]
        raise ModelError(_MESSAGES[same[0].kind](same, origin))
    return made


class _Rewriter:
    def __init__(self, generation: int, custom: Mapping[str, Any]) -> None:
        self.is_old = generation < 3
        self.custom = custom
        self.findings: list[Finding] = []
        self.foreign_root = False

    def rewrite(self, node: Any, owner: _Owner) -> Any:
        if isinstance(node, list | tuple):
            return [self.rewrite(item, owner) for item in node]
        if isinstance(node, dict) and "class_name" in node:
            return self.object(node, owner)
        if isinstance(node, dict):
            return {str(key): self.setting(str(key), node[key], owner) for key in node}
        return node

    def object(self, node: dict[str, Any], owner: _Owner) -> Any:
        """Write an object anew: a layer, a function, a value."""
        if not isinstance(node["class_name"], str):
            raise ModelError(
                f"A class in '{owner.name}' is called {node['class_name']!r}: damaged."
            )
        is_root = owner == _Owner()
        owner = _owner_of(node, owner)
        if node["class_name"] == "Lambda" and owner.name in self.custom:  # replaced as a whole
            without_code = {**node, "config": {"name": owner.name}}
            return {**self.kept(without_code, owner), "class_name": "Lambda"}
        if node["class_name"] == "function":
            return self.function(node, owner)
        found = self.identify(node, owner)
        if isinstance(found, Finding) and found.kind == "unknown":
            translated = translate_layer(node)
            if translated is not None:
                has_modules = node.get("module") is not None
                node = {**translated, **({"module": "keras.layers"} if has_modules else {})}
                found = self.identify(node, owner)
        if isinstance(found, Finding):
            self.findings.append(found)
            self.foreign_root |= is_root and found.kind == "unknown"
            return None
        return {**found, **self.kept(node, owner)}

    def kept(self, node: dict[str, Any], owner: _Owner) -> dict[str, Any]:
        return {key: self.setting(key, node[key], owner) for key in _OBJECT_KEYS if key in node}

    def identify(self, node: dict[str, Any], owner: _Owner) -> dict[str, Any] | Finding:
        """Say what the class of an object is, in our words."""
        class_name, module = node["class_name"], node.get("module")
        registered = node.get("registered_name") or class_name
        if class_name in {"Lambda", "__lambda__"}:
            return Finding("code", owner.name, owner.class_name)
        for name in (registered, class_name):
            if self.is_custom(name):
                return {"class_name": class_name, "module": None, "registered_name": name}
        if class_name in vocabulary.FOREIGN_CLASSES:
            return Finding("foreign", owner.name, class_name)
        is_own = _is_own(module) and registered == class_name
        if is_own and class_name in vocabulary.VALUE_CLASSES:
            return {"class_name": class_name}
        home = vocabulary.class_modules().get(class_name)
        operation = vocabulary.operation_classes().get(class_name)
        if operation and not self.is_old and (home is None or ".ops" in str(module)):
            home = operation.__module__
        if not is_own or home is None:
            where = module or str(registered).rpartition(">")[0] or "keras"
            return Finding("unknown", owner.name, owner.class_name, f"{class_name}\n{where}")
        if class_name in vocabulary.TENSORFLOW_CALLS:
            config = node.get("config")
            called = called_function(class_name, config if isinstance(config, dict) else {})
            if not is_known(called):
                return Finding("call", owner.name, class_name, called)
        if self.is_old or module is None:
            return {"class_name": class_name}
        return {"class_name": class_name, "module": home, "registered_name": None}

    def function(self, node: dict[str, Any], owner: _Owner) -> Any:
        name, module = node.get("config"), node.get("module")
        registered = node.get("registered_name") or name
        if not isinstance(name, str):
            self.findings.append(Finding("code", owner.name, owner.class_name))
            return None
        known = next(filter(self.is_custom, (name, registered)), None)
        home: str | None = "builtins"
        if known is None and translate_function(name) != name:
            known = translate_function(name)
            home = vocabulary.known_functions()[known]
        elif known is None:
            known, home = name, vocabulary.known_functions().get(name)
            if not _is_own(module) or home is None or registered != name:
                kind = "function" if _is_own(module) else "unknown"
                detail = name if kind == "function" else f"{name}\n{module}"
                self.findings.append(Finding(kind, owner.name, owner.class_name, detail))
                return None
        if self.is_old:
            return known
        made = {"class_name": "function", "config": known}
        return {**made, "module": home, "registered_name": known}

    def setting(self, key: str, value: Any, owner: _Owner) -> Any:
        """Write one entry of an object anew."""
        kind = key.rpartition("_")[2]
        if kind in _WITHOUT_EFFECT and isinstance(value, dict | str):
            return self.without_effect(value, _WITHOUT_EFFECT[kind])
        if isinstance(value, str):
            if key in ACTIVATION_KEYS and not self.is_custom(value):
                value = translate_function(value)
            found = self.judge_text(key, value, owner)
            if found is not None:
                self.findings.append(found)
        return self.rewrite(value, owner)

    def without_effect(self, value: Any, neutral: Any) -> Any:
        if isinstance(value, str):
            return value if self.is_function(value) else neutral
        trial = _Rewriter(2 if self.is_old else 3, self.custom)
        made = trial.rewrite(value, _Owner("(unnamed)"))
        return neutral if trial.findings else made

    def judge_text(self, key: str, value: str, owner: _Owner) -> Finding | None:
        if key.endswith("_type") and value == "lambda":
            return Finding("code", owner.name, owner.class_name)
        if owner.innermost in self.custom:
            return None  # what its settings mean is up to the user's class
        if key in _FILE_KEYS:
            return Finding("file", owner.name, owner.class_name, value)
        if key in ACTIVATION_KEYS and not self.is_function(value):
            return Finding("function", owner.name, owner.class_name, value)
        return None

    def is_function(self, name: str) -> bool:
        known = name in vocabulary.known_functions() or name in vocabulary.class_modules()
        return known or self.is_custom(name)

    def is_custom(self, name: Any) -> bool:
        return isinstance(name, str) and (
            name in self.custom or keras.saving.get_registered_object(name) is not None
        )


def _owner_of(node: dict[str, Any], owner: _Owner) -> _Owner:
    """Give the layer an object belongs to: itself if it has a name, else the one around it."""
    config = node.get("config")
    name = node.get("name") or (config.get("name") if isinstance(config, dict) else None)
    class_name = node["class_name"]
    if isinstance(name, str) and class_name not in vocabulary.POLICY_CLASSES:
        return _Owner(name, class_name, class_name)
    if not owner.name:
        return _Owner("(unnamed)", class_name, class_name)
    return replace(owner, innermost=class_name)


def _is_own(module: Any) -> bool:
    """Whether the module that an object names is one of Keras."""
    return module is None or (isinstance(module, str) and bool(_OWN_MODULE.fullmatch(module)))


def _root(config: dict[str, Any], found: Finding, origin: str) -> str:
    class_name, module = found.detail.split("\n")
    inner = config.get("config")
    has_graph = isinstance(inner, dict) and "input_layers" in inner
    given = "keras.Model" if has_graph else class_name
    hint = " if it only adds training code" if has_graph else ""
    return (
        f"The model of '{origin}' is of the class '{class_name}' (module '{module}'), which "
        f"Keras does not have. {_hand_over(class_name, given)}{hint}, or build keras.Model(inputs, "
        "outputs) from keras.Input and its layers in the program that made it, and save that."
    )


def _hand_over(name: str, given: str) -> str:
    way = f"--custom module:{name}"
    return f"Hand it over, {way} or load_model(..., custom_objects={{'{name}': {given}}})"


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
            f"Say what each computes, --custom {first.layer}=module:name or load_model(..., "
            f"custom_objects={{'{first.layer}': Keras layer or function of tensors}}), or rebuild"
        )
    return (
        f"{_layers(findings)} of '{origin}' {holds} Python code, which edgeprune never runs. "
        f"{say or 'Rebuild'} the model with Keras layers in their place and save it again."
    )


def _foreign(findings: list[Finding], origin: str) -> str:
    wraps = "wraps" if len({found.layer for found in findings}) == 1 else "wrap"
    return (
        f"{_layers(findings)} of '{origin}' {wraps} a program of another framework, which "
        "edgeprune never runs. Rebuild it with Keras layers and save the model again."
    )


def _unknown(findings: list[Finding], origin: str) -> str:
    class_name, module = findings[0].detail.split("\n")
    same = [found for found in findings if found.detail == findings[0].detail]
    of_itself = findings[0].class_name == class_name
    several = len({found.layer for found in same}) > 1
    verb = ("are" if several else "is") if of_itself else ("use" if several else "uses")
    where = "" if module in ("keras", "builtins") else f" (module '{module}')"
    return (
        f"{_layers(same, with_class=not of_itself)} of '{origin}' {verb} "
        f"'{class_name}'{where}, which Keras does not have. {_hand_over(class_name, class_name)}, "
        "or rebuild it with Keras layers and "
        "save the model again."
    )


def _function(findings: list[Finding], origin: str) -> str:
    name = findings[0].detail
    return (
        f"{_layers(findings[:1])} of '{origin}' uses the function '{name}', which Keras does not "
        f"have. {_hand_over(name, 'function')}."
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

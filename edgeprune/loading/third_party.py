"""Layers and functions of common packages that Keras has too, by another name.

Only what does the same on inference and has the same weights in the same order is here.
"""

from __future__ import annotations

from typing import Any

_SETTINGS = ("name", "trainable", "dtype", "batch_input_shape")
_ONE_PER_SAMPLE = {"noise_shape": [None, 1, 1, 1]}
_NORMALIZATION = {
    key: key
    for part in ("gamma", "beta")
    for key in (f"{part}_initializer", f"{part}_regularizer", f"{part}_constraint")
} | {key: key for key in ("axis", "epsilon", "center", "scale")}

# The class of Keras, its settings by their name in the package, and settings that are fixed there.
_CLASSES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "FixedDropout": ("Dropout", {"rate": "rate", "noise_shape": "noise_shape", "seed": "seed"}, {}),
    "DropConnect": ("Dropout", {"drop_connect_rate": "rate", "rate": "rate"}, _ONE_PER_SAMPLE),
    "DropPath": ("Dropout", {"drop_prob": "rate", "rate": "rate"}, _ONE_PER_SAMPLE),
    "Swish": ("Activation", {}, {"activation": "swish"}),
    "SiLU": ("Activation", {}, {"activation": "swish"}),
    "HSwish": ("Activation", {}, {"activation": "hard_silu"}),
    "Hswish": ("Activation", {}, {"activation": "hard_silu"}),
    "HardSwish": ("Activation", {}, {"activation": "hard_silu"}),
    "Mish": ("Activation", {}, {"activation": "mish"}),
    "ReLU6": ("ReLU", {}, {"max_value": 6.0}),
    "Relu6": ("ReLU", {}, {"max_value": 6.0}),
    "InstanceNormalization": ("GroupNormalization", _NORMALIZATION, {"groups": -1}),
    "GroupNormalization": ("GroupNormalization", {**_NORMALIZATION, "groups": "groups"}, {}),
}
# Where settings differ, the class is another one of the same name.
_PACKAGES = {"InstanceNormalization": "Addons", "GroupNormalization": "Addons"}

_FUNCTIONS = {
    "swish_activation": "swish",
    "Addons>gelu": "gelu",
    "Addons>mish": "mish",
    "Addons>hardshrink": "hard_shrink",
    **dict.fromkeys(("hswish", "h_swish", "hard_swish", "HSwish"), "hard_silu"),
}


def translate_layer(node: dict[str, Any]) -> dict[str, Any] | None:
    """Return the entry of a configuration in terms of Keras; `None` where that is not known.

    Args:
        node: of a layer that Keras does not have, as the file states it.

    Example:
        >>> translate_layer({"class_name": "FixedDropout", "config": {"name": "d", "rate": 0.2}})
        {'class_name': 'Dropout', 'config': {'name': 'd', 'rate': 0.2}}
    """
    package, _, name = str(node.get("registered_name") or node["class_name"]).rpartition(">")
    config = node.get("config")
    if name not in _CLASSES or not isinstance(config, dict):
        return None
    if _PACKAGES.get(name, package) != package:
        return None
    class_name, names, fixed = _CLASSES[name]
    translated = {key: config[key] for key in _SETTINGS if key in config}
    for key, value in config.items():
        if key in names:
            translated[names[key]] = value
        elif key not in (*_SETTINGS, "autocast") and value not in (None, False):
            return None  # a variant that does something else
    kept = {key: value for key, value in node.items() if key not in ("module", "registered_name")}
    return {**kept, "class_name": class_name, "config": {**translated, **fixed}}


def translate_function(name: str) -> str:
    """Return the name that Keras has for a function of a package, or the name itself."""
    return _FUNCTIONS.get(name, name)

"""A Keras model on its way to TensorFlow Lite: what several files start from is made once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from edgeprune.tflite.conversion_checks import CALIBRATED, accept_model
from edgeprune.tflite.post_training import FloatModel
from edgeprune.tflite.tensorflow_lite import signature_name, to_tflite

if TYPE_CHECKING:
    import keras


class FloatForm:
    """A model that TensorFlow Lite can express, and its file in floats.

    Args:
        model: in float32.
        names: signature name by input name.
    """

    def __init__(self, model: keras.Model, names: Mapping[str, str]) -> None:
        self.model, self.names = model, names
        self._quantizable: dict[bool, FloatModel] = {}

    @cached_property
    def content(self) -> bytes:
        """The `.tflite` in float32."""
        return to_tflite(self.model, self.names, "float32")

    def quantizable(self, scheme: str) -> FloatModel:
        """Return the same, about to be quantized to a number format."""
        key = scheme == "int16x8"
        if key not in self._quantizable:
            layers = [layer.name for layer in self.model._flatten_layers(include_self=False)]
            names = list(self.names.values())
            made = FloatModel(self.content, self.model.name, names, layers, scheme)
            self._quantizable[key] = made
        return self._quantizable[key]

    def convert(self, scheme: str) -> bytes:
        """Return the `.tflite` in a number format that needs no samples."""
        return self.content if scheme == "float32" else to_tflite(self.model, self.names, scheme)


class Convertible:
    """A Keras model that can be converted: into floats only once, whatever it becomes after that.

    Args:
        model: Functional or Sequential; it must not change while this is in use.

    Attributes:
        model: for any batch.
        names: signature name by input name.

    Raises:
        ConversionError: it is no model that can be converted.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = accept_model(model)
        self.names = {tensor.name: signature_name(tensor.name) for tensor in self.model.inputs}
        self._forms: dict[bool, FloatForm] = {}

    @classmethod
    def of(cls, model: keras.Model | Convertible) -> Convertible:
        """Return what is one already, or a new one."""
        return model if isinstance(model, cls) else cls(model)

    @cached_property
    def source(self) -> keras.Model:
        """The model in float32."""
        from edgeprune.surgery.precision import in_float32

        return in_float32(self.model)

    def form(self, scheme: str) -> FloatForm:
        """Return an equal form that a number format can be made of, see `rewrite_model`."""
        from edgeprune.tflite.rewrites import rewrite_model

        unroll = scheme in CALIBRATED
        if unroll not in self._forms:
            model = rewrite_model(self.source, unroll=unroll)
            same = [form for form in self._forms.values() if form.model is model]
            self._forms[unroll] = same[0] if same else FloatForm(model, self.names)
        return self._forms[unroll]

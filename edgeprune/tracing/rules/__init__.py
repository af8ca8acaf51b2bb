"""How each layer treats channel labels: `RULES`, from layer type to function.

A rule gets a `Tracing` (what is being called, and the label space) and the labels of the inputs; it
returns the labels of the outputs. A new layer is added in one function, in the file of its family.
Operations without weights need no rule: they are tried out (`probing`). A layer with
weights and without a rule locks the channels it touches.

Rules and layers meet by exact type: a subclass may override `call`, so it needs a rule of its own.
"""

from __future__ import annotations

from edgeprune.tracing.rules import (  # noqa: F401  # each registers its rules
    activations,
    attention,
    convolutions,
    dense,
    elementwise,
    movement,
    normalization,
    pooling,
    recurrent,
    slicing,
)
from edgeprune.tracing.rules.dispatch import apply_rule
from edgeprune.tracing.rules.registry import NORMALIZED, RULES, Labels, Rule, Tracing, place, rule

__all__ = ["NORMALIZED", "RULES", "Labels", "Rule", "Tracing", "apply_rule", "place", "rule"]

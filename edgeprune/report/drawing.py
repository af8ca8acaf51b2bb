"""The graph of a model as a picture, with its groups in colour."""

from __future__ import annotations

import colorsys
import html
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgepruneError
from edgeprune.support.files import replace_on_success
from edgeprune.tracing.graph import Call, TensorRef
from edgeprune.tracing.groups import Groups

if TYPE_CHECKING:
    import pydot

FORMATS = ("dot", "pdf", "png", "svg")
LOCKED = "#d9d9d9"
GOLDEN = 0.618034
FONT = "Helvetica"
TIMES = "\N{MULTIPLICATION SIGN}"
LEGEND = "One colour: channels that go or stay together. Grey: channels that stay."


def draw_groups(groups: Groups, path: str | os.PathLike[str]) -> None:
    """Write a picture of the model: one colour per group of channels, grey for locked ones.

    A box is a layer, together with the layers that only pass on what it makes; it has the colour of
    the channels that come out of it, an edge that of the channels that flow along it. Nested models
    are frames.

    Args:
        groups: of the model.
        path: where to; the suffix chooses the format: .svg, .png or .pdf need Graphviz' program
            `dot`, .dot is the text that `dot` reads and needs nothing.

    Raises:
        EdgepruneError: another suffix, or pydot or `dot` is missing.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> draw_groups(find_groups(model), "model.svg")  # doctest: +SKIP
    """
    wanted = check_drawing(path)
    picture = _Picture(groups).graph
    drawn: Any = picture.to_string().encode() if wanted == "dot" else picture.create(format=wanted)
    with replace_on_success(path) as temporary:
        temporary.write_bytes(drawn)


def check_drawing(path: str | os.PathLike[str]) -> str:
    """Return the format that a suffix chooses, if it can be drawn here.

    Raises:
        EdgepruneError: another suffix, or pydot or `dot` is missing.

    Example:
        >>> check_drawing("model.dot")  # doctest: +SKIP
        'dot'
    """
    wanted = Path(path).suffix.lstrip(".").lower()
    if wanted not in FORMATS:
        raise EdgepruneError(
            f"Cannot draw '{path}': the suffix chooses the format. Expected one of "
            f"{', '.join('.' + name for name in FORMATS)}."
        )
    _import_pydot()
    if wanted != "dot" and shutil.which("dot") is None:
        raise EdgepruneError(
            f"Cannot draw '{path}': Graphviz' program 'dot' is not on the PATH. Install Graphviz "
            "(apt install graphviz, brew install graphviz), or write a .dot file and draw it "
            "elsewhere."
        )
    return wanted


def _import_pydot() -> Any:
    try:
        import pydot
    except ImportError as error:
        raise EdgepruneError(
            "Drawing needs the package pydot. Install it with: pip install 'edgeprune[drawing]'."
        ) from error
    return pydot


class _Picture:
    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.pydot = _import_pydot()
        self.graph: pydot.Dot = self.pydot.Dot(
            "model",
            graph_type="digraph",
            rankdir="TB",
            ranksep="0.35",
            nodesep="0.3",
            fontname=FONT,
            fontsize="10",
            bgcolor="white",
            labelloc="b",
            label=_quote(LEGEND),
        )
        self._frames: dict[str, Any] = {"": self.graph}
        self._group_of = self._find_groups_of_layers()
        self._group_of_tensor: dict[int, int | None] = {}
        self._draw()

    def _find_groups_of_layers(self) -> dict[str, int]:
        """Return for each layer the group that comes out of it."""
        found: dict[str, int] = {}
        for role in ("passes", "writes"):
            for number, group in enumerate(self.groups):
                for path in group.layers(role):
                    if role == "writes" or path not in found:
                        found[path] = number
        return found

    def _draw(self) -> None:
        maker: dict[int, str] = {}
        for ref in self.groups.graph.inputs:
            maker[ref.number] = f"input_{ref.number}"
            self._group_of_tensor[ref.number] = None
            self._box("", maker[ref.number], [("input", _shape(ref.shape))], None)
        for index, chain in enumerate(self._find_chains()):
            node = f"call_{index}"
            first, last = chain[0], chain[-1]
            group = self._group_of_tensor[last.outputs[0].number] if last.outputs else None
            texts = [(call.path.rpartition("/")[2], _kind(call)) for call in chain]
            self._box(first.path.rpartition("/")[0], node, texts, group)
            for ref in first.inputs:
                self._edge(maker[ref.number], node, ref)
            maker.update({ref.number: node for ref in last.outputs})
        for ref in self.groups.graph.outputs:
            node = f"output_{ref.number}"
            self._box("", node, [("output", _shape(ref.shape))], self._group_of_tensor[ref.number])
            self._edge(maker[ref.number], node, ref)

    def _find_chains(self) -> list[list[Call]]:
        """Return the calls, those that only pass on what the one before made joined to it."""
        graph = self.groups.graph
        taken = Counter(ref.number for call in graph.calls for ref in call.inputs)
        taken.update(ref.number for ref in graph.outputs)
        chains: list[list[Call]] = []
        ends: dict[int, list[Call]] = {}
        for call in graph.calls:
            incoming = [self._group_of_tensor[ref.number] for ref in call.inputs]
            group = self._group_of.get(call.path, incoming[0] if incoming else None)
            self._group_of_tensor.update({ref.number: group for ref in call.outputs})
            chain = ends.get(call.inputs[0].number) if len(call.inputs) == 1 else None
            joins = (
                chain is not None
                and taken[call.inputs[0].number] == 1
                and group == incoming[0]
                and call.path.rpartition("/")[0] == chain[0].path.rpartition("/")[0]
                and call.path not in self._writers
            )
            if chain is None or not joins:
                chain = []
                chains.append(chain)
            chain.append(call)
            if len(call.outputs) == 1:
                ends[call.outputs[0].number] = chain
        return chains

    @cached_property
    def _writers(self) -> set[str]:
        return {path for group in self.groups for path in group.layers("writes")}

    def _frame(self, path: str) -> Any:
        """Return the frame of a nested model, drawn inside that of the model around it."""
        if path not in self._frames:
            outer = self._frame(path.rpartition("/")[0])
            frame = self.pydot.Cluster(
                f"model_{len(self._frames)}", label=_quote(path), color="gray", fontname=FONT
            )
            outer.add_subgraph(frame)
            self._frames[path] = frame
        return self._frames[path]

    def _box(self, frame: str, node: str, texts: list[tuple[str, str]], group: int | None) -> None:
        """Draw a box: the name of its first call large, what follows it small."""
        (name, kind), *rest = texts
        lines = [f"<b>{html.escape(name)}</b>", html.escape(kind)]
        lines += [_small(f"{html.escape(one)}: {html.escape(other)}") for one, other in rest]
        found = None if group is None else self.groups.groups[group]
        if found is not None and found.locked and name in _names(found.layers("writes")):
            lines.append(_small(f"<i>locked: {html.escape(found.locked[0])}</i>"))
        self._frame(frame).add_node(
            self.pydot.Node(
                node,
                label=f"<{'<br/>'.join(lines)}>",
                tooltip=_quote("" if found is None else str(found)),
                shape="box",
                style="filled,rounded",
                color="gray40",
                fillcolor=_quote("white" if group is None else self.color(group, 0.35)),
                fontname=FONT,
                fontsize="12",
            )
        )

    def _edge(self, source: str, target: str, ref: TensorRef) -> None:
        group = self._group_of_tensor[ref.number]
        color = "black" if group is None else self.color(group, 0.9)
        self.graph.add_edge(
            self.pydot.Edge(
                source,
                target,
                color=_quote(color),
                label=_quote(f" {_shape(ref.shape)} "),
                fontsize="9",
                fontname=FONT,
                penwidth="2",
            )
        )

    def color(self, group: int, saturation: float) -> str:
        """Return a colour unlike that of the groups before and after."""
        if self.groups.groups[group].locked:
            return LOCKED if saturation < 0.5 else "#808080"
        red, green, blue = colorsys.hsv_to_rgb(group * GOLDEN % 1, saturation, 0.95)
        return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


def _quote(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'


def _small(text: str) -> str:
    return f'<font point-size="9">{text}</font>'


def _names(paths: Iterable[str]) -> set[str]:
    return {path.rpartition("/")[2] for path in paths}


def _kind(call: Call) -> str:
    """Return the type of a call's layer, with the size of its kernel."""
    name = type(call.operation).__name__
    size = getattr(call.operation, "kernel_size", None)
    return f"{name} {TIMES.join(map(str, size))}" if isinstance(size, tuple) else name


def _shape(shape: tuple[int | None, ...]) -> str:
    return TIMES.join("?" if size is None else str(size) for size in shape[1:])

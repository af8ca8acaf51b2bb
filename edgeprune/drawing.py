"""The graph of a model as a picture, with its groups in colour."""

from __future__ import annotations

import colorsys
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgepruneError
from edgeprune.files import replace_on_success
from edgeprune.graph import Call
from edgeprune.groups import Groups

if TYPE_CHECKING:
    import pydot

FORMATS = ("dot", "pdf", "png", "svg")
LOCKED = "#d9d9d9"
GOLDEN = 0.618034


def draw_groups(groups: Groups, path: str | os.PathLike[str]) -> None:
    """Write a picture of the model: one box per call, one colour per group, grey for locked ones.

    A box has the colour of the channels that come out of it, an edge that of the channels that flow
    along it. Nested models are frames.

    Args:
        groups: of the model.
        path: where to; the suffix chooses the format: .svg, .png or .pdf need Graphviz' program
            `dot`, .dot is the text that `dot` reads and needs nothing.

    Raises:
        EdgepruneError: another suffix, or pydot or `dot` is missing.

    Example:
        >>> import keras
        >>> from edgeprune.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> draw_groups(find_groups(model), "model.svg")  # doctest: +SKIP
    """
    wanted = Path(path).suffix.lstrip(".").lower()
    if wanted not in FORMATS:
        raise EdgepruneError(
            f"Cannot draw '{path}': the suffix chooses the format. Expected one of "
            f"{', '.join('.' + name for name in FORMATS)}."
        )
    picture = _Picture(groups).graph
    content: bytes = picture.to_string().encode()
    if wanted != "dot" and shutil.which("dot") is None:
        raise EdgepruneError(
            f"Cannot draw '{path}': Graphviz' program 'dot' is not on the PATH. Install Graphviz "
            "(apt install graphviz, brew install graphviz), or write a .dot file and draw it "
            "elsewhere."
        )
    if wanted != "dot":
        drawn: Any = picture.create(format=wanted)
        content = bytes(drawn)
    with replace_on_success(path) as temporary:
        temporary.write_bytes(content)


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
            "model", graph_type="digraph", rankdir="TB", fontname="Helvetica", bgcolor="white"
        )
        self._frames: dict[str, Any] = {"": self.graph}
        self._group_of = self._find_groups_of_layers()
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
        group_of_tensor: dict[int, int | None] = {}
        maker: dict[int, str] = {}
        for ref in self.groups.graph.inputs:
            node = f"input_{ref.number}"
            maker[ref.number] = node
            group_of_tensor[ref.number] = None
            self._box("", node, f"input\\n{_shape(ref.shape)}", None)
        for index, call in enumerate(self.groups.graph.calls):
            node = f"call_{index}"
            incoming = [group_of_tensor[ref.number] for ref in call.inputs]
            group = self._group_of.get(call.path, incoming[0] if incoming else None)
            self._box(call.path.rpartition("/")[0], node, self._text(call), group)
            for ref, carried in zip(call.inputs, incoming, strict=True):
                self._edge(maker[ref.number], node, carried, _shape(ref.shape))
            for ref in call.outputs:
                maker[ref.number] = node
                group_of_tensor[ref.number] = group
        for ref in self.groups.graph.outputs:
            node = f"output_{ref.number}"
            self._box("", node, "output", group_of_tensor[ref.number])
            self._edge(maker[ref.number], node, group_of_tensor[ref.number], _shape(ref.shape))

    def _text(self, call: Call) -> str:
        return f"{call.path.rpartition('/')[2]}\\n{type(call.operation).__name__}"

    def _frame(self, path: str) -> Any:
        """Return the frame of a nested model, drawn inside that of the model around it."""
        if path not in self._frames:
            outer = self._frame(path.rpartition("/")[0])
            frame = self.pydot.Cluster(
                f"model_{len(self._frames)}", label=_quote(path), color="gray", fontname="Helvetica"
            )
            outer.add_subgraph(frame)
            self._frames[path] = frame
        return self._frames[path]

    def _box(self, frame: str, node: str, text: str, group: int | None) -> None:
        tooltip = "" if group is None else str(self.groups.groups[group])
        self._frame(frame).add_node(
            self.pydot.Node(
                node,
                label=_quote(text),
                tooltip=_quote(tooltip),
                shape="box",
                style="filled,rounded",
                fillcolor=_quote("white" if group is None else self.color(group, 0.35)),
                fontname="Helvetica",
            )
        )

    def _edge(self, source: str, target: str, group: int | None, text: str) -> None:
        color = "black" if group is None else self.color(group, 0.9)
        self.graph.add_edge(
            self.pydot.Edge(
                source, target, color=_quote(color), label=_quote(text), fontsize="9",
                fontname="Helvetica", penwidth="2",
            )
        )  # fmt: skip

    def color(self, group: int, saturation: float) -> str:
        """Return a colour unlike that of the groups before and after."""
        if self.groups.groups[group].locked:
            return LOCKED if saturation < 0.5 else "#808080"
        red, green, blue = colorsys.hsv_to_rgb(group * GOLDEN % 1, saturation, 0.95)
        return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


def _quote(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape[1:])

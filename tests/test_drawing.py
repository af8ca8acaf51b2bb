from __future__ import annotations

import builtins
import re
import shutil
import stat

import networks
import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.report.drawing import draw_groups
from edgeprune.tracing.groups import find_groups

pydot = pytest.importorskip("pydot")
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning")


@pytest.fixture
def picture(tmp_path):
    groups = find_groups(networks.build_nested_network())
    draw_groups(groups, tmp_path / "model.dot")
    (graph,) = pydot.graph_from_dot_file(tmp_path / "model.dot")
    return groups, graph


def nodes(graph) -> dict[str, dict]:
    found = {node.get_name(): node.get_attributes() for node in graph.get_nodes()}
    for frame in graph.get_subgraphs():
        found.update(nodes(frame))
    return found


def label_of(graph, layer: str) -> tuple[str, str]:
    """Label and colour of the box that names a layer."""
    named = [
        (box["label"], box["fillcolor"])
        for box in nodes(graph).values()
        if re.search(rf"[>]{layer}[:<]", box.get("label", ""))
    ]
    assert named, layer
    return named[0]


def test_every_call_is_named_in_a_box(picture) -> None:
    groups, graph = picture
    for call in groups.graph.calls:
        label, _ = label_of(graph, call.path.rpartition("/")[2])
        assert type(call.operation).__name__ in label


def test_a_layer_that_only_passes_on_stands_in_the_box_before_it(tmp_path) -> None:
    draw_groups(find_groups(networks.build_residual_network()), tmp_path / "model.dot")
    (graph,) = pydot.graph_from_dot_file(tmp_path / "model.dot")
    assert label_of(graph, "inner") == label_of(graph, "inner_norm")
    assert label_of(graph, "inner") == label_of(graph, "inner_relu")
    assert label_of(graph, "stem_norm") == label_of(graph, "stem_relu")
    assert label_of(graph, "stem") != label_of(graph, "stem_norm")  # the shortcut starts there
    assert label_of(graph, "outer") != label_of(graph, "inner")
    assert label_of(graph, "add") != label_of(graph, "outer")  # two tensors meet there
    boxes = {edge.get_source() for edge in graph.get_edges()}
    boxes |= {edge.get_destination() for edge in graph.get_edges()}
    assert boxes == {name for name in nodes(graph) if "_" in name}


def test_layers_of_one_group_share_a_colour_and_locked_groups_are_grey(picture) -> None:
    _, graph = picture
    assert label_of(graph, "enter")[1] == label_of(graph, "second")[1]
    assert label_of(graph, "enter")[1] != label_of(graph, "first")[1]
    label, color = label_of(graph, "head")
    assert color == '"#d9d9d9"'
    assert "locked: output of the model" in label


def test_names_are_no_markup(tmp_path) -> None:
    groups = find_groups(networks.build_residual_network())
    object.__setattr__(groups.graph.calls[0], "path", "a<b>&c")
    draw_groups(groups, tmp_path / "model.dot")
    assert "<b>a&lt;b&gt;&amp;c</b>" in (tmp_path / "model.dot").read_text()


def test_nested_models_are_frames_in_frames(picture) -> None:
    _, graph = picture
    (encoder,) = graph.get_subgraphs()
    (block,) = encoder.get_subgraphs()
    assert (encoder.get_label(), block.get_label()) == ('"encoder"', '"encoder/block"')


def test_a_picture_is_made_by_graphviz(tmp_path, monkeypatch) -> None:
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\ncat > /dev/null\nfor last; do :; done\necho '<svg/>'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    if shutil.which("dot") is None:
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    draw_groups(find_groups(networks.build_residual_network()), tmp_path / "model.svg")
    assert "<svg" in (tmp_path / "model.svg").read_text()


def test_without_graphviz_the_message_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    groups = find_groups(networks.build_residual_network())
    with pytest.raises(EdgepruneError, match=r"'dot' is not on the PATH. Install Graphviz .*\.dot"):
        draw_groups(groups, tmp_path / "model.png")
    assert not list(tmp_path.iterdir())


def test_without_pydot_the_message_names_the_extra(tmp_path, monkeypatch) -> None:
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "pydot":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    groups = find_groups(networks.build_residual_network())
    with pytest.raises(EdgepruneError, match=r"pip install 'edgeprune\[drawing\]'"):
        draw_groups(groups, tmp_path / "model.dot")


def test_an_unknown_suffix_is_refused(tmp_path) -> None:
    groups = find_groups(networks.build_residual_network())
    with pytest.raises(EdgepruneError, match=r"Expected one of \.dot, \.pdf, \.png, \.svg"):
        draw_groups(groups, tmp_path / "model.jpeg")

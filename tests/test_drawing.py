from __future__ import annotations

import builtins
import shutil
import stat

import networks
import pytest

from edgeprune.drawing import draw_groups
from edgeprune.errors import EdgepruneError
from edgeprune.groups import find_groups

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


def test_every_call_is_a_box_and_every_tensor_an_edge(picture) -> None:
    groups, graph = picture
    boxes = [name for name in nodes(graph) if name.startswith("call_")]
    assert len(boxes) == len(groups.graph.calls)
    flows = sum(len(call.inputs) for call in groups.graph.calls) + len(groups.graph.outputs)
    assert len(graph.get_edges()) == flows


def test_layers_of_one_group_share_a_colour_and_locked_groups_are_grey(picture) -> None:
    groups, graph = picture
    colors = {
        call.path: nodes(graph)[f"call_{index}"]["fillcolor"]
        for index, call in enumerate(groups.graph.calls)
    }
    assert colors["encoder/enter"] == colors["encoder/block/second"]
    assert colors["encoder/enter"] != colors["encoder/block/first"]
    assert colors["head"] == '"#d9d9d9"'


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

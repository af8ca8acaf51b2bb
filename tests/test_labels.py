from __future__ import annotations

import numpy as np
import pytest

from edgeprune.tracing.labels import NO_LABEL, AxisUse, LabelSpace, shorten, varying_axes


def test_fresh_labels_are_never_handed_out_twice() -> None:
    space = LabelSpace()
    assert set(space.fresh(3)).isdisjoint(space.fresh(4))


def test_tying_is_transitive() -> None:
    space = LabelSpace()
    a, b, c = space.fresh(2), space.fresh(2), space.fresh(2)
    space.tie(a, b)
    space.tie(b, c)
    channels = space.channels(np.stack([a, b, c]))
    assert (channels[0] == channels[1]).all() and (channels[1] == channels[2]).all()
    assert channels[0][0] != channels[0][1]


def test_a_position_without_label_ties_nothing_and_stays_without() -> None:
    space = LabelSpace()
    a = space.fresh(2)
    space.tie(a, np.array([NO_LABEL, NO_LABEL]))
    assert space.channels(np.append(a, NO_LABEL)).tolist() == [0, 1, NO_LABEL]


def test_merging_a_vector_with_a_map_ties_channel_by_channel() -> None:
    space = LabelSpace()
    feature_map, vector = space.fresh(3).reshape(1, 1, 3), space.fresh(3)
    merged = space.merge([feature_map, vector], [(8, 8, 3), (3,)])
    assert merged.shape == (1, 1, 3)
    assert (space.channels(feature_map.ravel()) == space.channels(vector)).all()


def test_a_spatial_gate_is_locked_and_does_not_tie_the_map_it_gates() -> None:
    space = LabelSpace()
    feature_map, gate = space.fresh(3).reshape(1, 1, 3), space.fresh(1).reshape(1, 1, 1)
    merged = space.merge([gate, feature_map], [(8, 8, 1), (8, 8, 3)])
    assert (merged == feature_map).all()
    assert len(np.unique(space.channels(feature_map))) == 3
    assert list(space.locked()) == space.channels(gate.ravel()).tolist()


def test_collapse_keeps_one_axis_and_ties_the_others() -> None:
    space = LabelSpace()
    labels = space.fresh(6).reshape(2, 3)
    assert space.collapse(labels, -1).shape == (3,)
    channels = space.channels(labels)
    assert (channels[0] == channels[1]).all() and len(np.unique(channels)) == 3


def test_a_second_use_of_a_weight_ties_to_the_first() -> None:
    space = LabelSpace()
    a, b = space.fresh(2), space.fresh(2)
    first = space.use("key", AxisUse("conv", 0, 3, "writes", a))
    second = space.use("key", AxisUse("conv", 0, 3, "writes", b))
    assert first is a and second is a
    assert (space.channels(a) == space.channels(b)).all()
    assert len(space.uses) == 1


def test_a_lock_reaches_every_tied_label_and_keeps_each_reason_once() -> None:
    space = LabelSpace()
    a, b = space.fresh(2), space.fresh(2)
    space.lock(a[:1], "first")
    space.tie(a, b)
    space.lock(b[:1], "second")
    space.lock(a[:1], "first")
    assert space.locked() == {0: ("first", "second")}


@pytest.mark.parametrize(
    ("labels", "short", "axes"),
    [
        (np.broadcast_to(np.arange(3), (4, 4, 3)), (1, 1, 3), (2,)),
        (np.arange(6).reshape(2, 3), (2, 3), (0, 1)),
        (np.zeros((4, 4), int), (1, 1), ()),
    ],
)
def test_shortened_labels_have_size_one_where_they_do_not_vary(labels, short, axes) -> None:
    assert shorten(labels).shape == short
    assert varying_axes(shorten(labels)) == axes
    assert (np.broadcast_to(shorten(labels), labels.shape) == labels).all()

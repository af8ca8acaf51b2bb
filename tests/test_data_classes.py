from __future__ import annotations

import subprocess
import sys

import pytest

from edgeprune.data import find_classes
from edgeprune.errors import ClassError

ANIMALS = ("cat", "dog", "fox", "horse")


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("dog,cat", (1, 0)),
        (" horse , 0 ,fox,", (3, 0, 2)),
        (["fox", 1], (2, 1)),
        ((3, 0, 1), (3, 0, 1)),
    ],
)
def test_names_and_indices_keep_the_order_of_the_user(requested, expected):
    assert find_classes(requested, ANIMALS) == expected


def test_a_text_that_is_a_name_and_an_index_is_the_name():
    assert find_classes("3,5", ("5", "4", "3")) == (2, 0)


def test_a_name_with_a_comma_is_put_in_quotes():
    names = ("tench, Tinca tinca", "goldfish")
    assert find_classes('goldfish,"tench, Tinca tinca"', names) == (1, 0)


def test_an_unknown_class_gets_a_suggestion_and_the_known_ones():
    with pytest.raises(ClassError) as error:
        find_classes("cat,Hors", ANIMALS)
    assert str(error.value) == (
        "Unknown class 'Hors'. Did you mean 'horse'? Known classes: cat, dog, fox, horse."
    )


def test_a_long_list_of_known_classes_is_shortened():
    names = [f"class{number}" for number in range(100)]
    with pytest.raises(ClassError, match=r"Known classes: class0, .*, class11 and 88 more\.$"):
        find_classes("zebra,class1", names)


@pytest.mark.parametrize("index", [4, -1, "7"])
def test_an_index_past_the_end_says_the_range(index):
    with pytest.raises(ClassError, match=f"no class {index}: indices run from 0 to 3"):
        find_classes(["cat", index], ANIMALS)


def test_the_same_class_twice_is_refused():
    with pytest.raises(ClassError) as error:
        find_classes("cat,dog,0", ANIMALS)
    assert str(error.value) == "Class 'cat' was asked for twice. Name each class once."


@pytest.mark.parametrize(("requested", "got"), [("dog", "only 'dog' was"), (" ,", "none was")])
def test_fewer_than_two_classes_are_refused_with_the_reason(requested, got):
    with pytest.raises(ClassError) as error:
        find_classes(requested, ANIMALS)
    assert str(error.value) == (
        "A specialist needs at least two classes, because with one it has nothing to decide; "
        f"{got} asked for. Add what it has to be told from, known classes: cat, dog, fox, horse."
    )


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'tensorflow', 'keras', 'PIL', 'sklearn', 'scipy'}"
    code = f"import sys, edgeprune.data; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("requested", "expected"),
    [("cat, black,fox", (0, 3)), ("fox,cat,black", (3, 0)), ("cat, black,black", (0, 2)),
     ("black,cat", (2, 1)), ('"cat, black",cat', (0, 1))],
)  # fmt: skip
def test_known_names_with_commas_need_no_quotes(requested, expected):
    assert find_classes(requested, ("cat, black", "cat", "black", "fox")) == expected


@pytest.mark.parametrize("requested", ["cat,,fox", ",cat,fox", "cat, ,fox"])
def test_a_class_that_was_left_out_between_commas_is_told(requested):
    with pytest.raises(ClassError, match="no name between two commas"):
        find_classes(requested, ANIMALS)

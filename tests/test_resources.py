from __future__ import annotations

import re

import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.support import resources
from edgeprune.support.resources import find_folder


def test_a_checkout_has_both_folders_beside_the_library() -> None:
    assert (find_folder("devices") / "harness" / "__main__.py").is_file()
    assert find_folder("pipelines").is_dir()


def test_the_installed_folder_comes_before_a_sibling(tmp_path, monkeypatch) -> None:
    library = tmp_path / "edgeprune"
    sibling, installed = tmp_path / "devices", library / "devices"
    sibling.mkdir()
    monkeypatch.setattr(resources, "_LIBRARY", library)
    assert find_folder("devices") == sibling
    installed.mkdir(parents=True)
    assert find_folder("devices") == installed


def test_a_broken_installation_says_what_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resources, "_LIBRARY", tmp_path / "edgeprune")
    reason = f"This installation of edgeprune has no folder 'pipelines': looked for {tmp_path}"
    with pytest.raises(EdgepruneError, match=re.escape(reason)):
        find_folder("pipelines")

"""Several boards at the same time, and measurements of another day."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small_models
import ssh_server
from specialists import run_command

from edgeprune.benchmarking import BenchResult, SshTransport, bench
from edgeprune.benchmarking.earlier import read_earlier
from edgeprune.benchmarking.fleets import measure_on_all
from edgeprune.benchmarking.ssh import Patience
from edgeprune.support.progress import showing
from edgeprune.tflite import convert

REASON = ssh_server.why_there_is_none()
with_boards = pytest.mark.skipif(REASON is not None, reason=REASON or "")
HASTY = Patience(poll_seconds=0.1, lease_seconds=20, lost_seconds=2.0)
HOSTS = ("kitchen", "garage", "attic")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.tflite"
    convert(small_models.classifier(), scheme="float32", path=path)
    return path


@pytest.fixture
def boards(tmp_path):
    """Three servers, the settings that know all of them, and a folder on each."""
    servers, texts = {}, []
    for host in HOSTS:
        (folder := tmp_path / host).mkdir()
        (folder / "on board").mkdir()
        servers[host] = ssh_server.make_server(folder)
        servers[host].start()
        texts.append(servers[host].config.read_text().replace("Host board", f"Host {host}"))
    (tmp_path / "config").write_text("".join(texts))
    yield servers
    for server in servers.values():
        server.stop()


class Watcher:
    """Notes the stages, and does something once, when one of them has come so far."""

    def __init__(self, name: str, action) -> None:
        self.name, self.action, self.stages = name, action, []

    @contextlib.contextmanager
    def stage(self, name, total=None):
        self.stages.append(name)

        def advance() -> None:
            if name == self.name and self.action:
                action, self.action = self.action, None
                action()

        yield advance


def is_empty(folder: Path) -> bool:
    for _ in range(6000):
        if not list(folder.iterdir()):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@with_boards
def test_a_board_that_dies_does_not_stop_the_others(boards, model, tmp_path) -> None:
    def measure(host: str, stop: threading.Event) -> BenchResult:
        patience = HASTY if host == "garage" else replace(HASTY, lease_seconds=120)
        board = SshTransport(
            host, config=tmp_path / "config", python=sys.executable, patience=patience,
            folder=str(tmp_path / host / "on board"), stop=stop,
        )  # fmt: skip
        return bench(model, transport=board, runs=3000, seconds=3.0, threads=1)

    watcher = Watcher("garage: benchmark", boards["garage"].stop)
    with showing(watcher):
        found = measure_on_all(measure, HOSTS)
    assert list(found.results) == ["kitchen", "attic"]
    assert list(found.failures) == ["garage"]
    assert "The line to garage was lost and did not come back" in found.failures["garage"]
    assert {f"{host}: connecting to {host}" for host in HOSTS} <= set(watcher.stages)
    for host in HOSTS:
        assert is_empty(tmp_path / host / "on board")


@with_boards
def test_the_command_measures_everywhere_and_tells_what_failed(boards, model, tmp_path) -> None:
    boards["attic"].stop()
    words = ("--host", ",".join(HOSTS), "--ssh-config", tmp_path / "config", "--json")
    quick = ("--runs", 12, "--seconds", 0.1, "--threads", 1, "--remote-python", sys.executable)
    answer = run_command("bench", model, *words, *quick, "--out", tmp_path / "out")
    document = json.loads(answer.out)
    assert list(document["hosts"]) == ["kitchen", "garage"]
    assert all(host["measurements"][0]["count"] == 12 for host in document["hosts"].values())
    assert list(document["failures"]) == ["attic"]
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("Error: attic: Cannot reach attic: Connection")
    assert (tmp_path / "out" / "garage" / "measurement.csv").exists()


def test_an_interruption_ends_all_with_what_they_have(model) -> None:
    """Boards that wait to be stopped; Ctrl-C comes when both are waiting."""
    waiting = threading.Barrier(3, timeout=60)

    def measure(host: str, stop: threading.Event) -> BenchResult:
        waiting.wait()
        assert stop.wait(60)
        if host == "attic":
            raise KeyboardInterrupt
        return BenchResult((), {}, interrupted=True)

    def interrupt() -> None:
        waiting.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    found = measure_on_all(measure, ("garage", "attic"))
    assert found.interrupted
    assert (list(found.results), dict(found.failures)) == (["garage"], {})


QUICK = ("--runs", 12, "--seconds", 0.1, "--threads", 1)


def test_a_model_is_found_by_the_path_that_was_its_name(tmp_path) -> None:
    """What was measured beside others has more of its path in its name than alone, and less."""
    entry = dict.fromkeys(("p50_ms", "p90_ms", "memory_peak_bytes", "size_bytes", "threads"), 1)
    entry |= dict.fromkeys(("where", "runtime"), "here")
    saved = tmp_path / "measurement.json"
    names = ("a/model.tflite", "b/model.tflite", "other.tflite")
    entries = [entry | {"model": name, "p50_ms": number} for number, name in enumerate(names)]
    saved.write_text(json.dumps({"measurements": entries}))
    found = read_earlier(
        saved,
        {"model.tflite": "nets/b/model.tflite", "c/other.tflite": "nets/c/other.tflite",
         "bb/model.tflite": "nets/bb/model.tflite"},
    )  # fmt: skip
    assert {name: entry["p50_ms"] for name, entry in found.items()} == {
        "model.tflite": 1, "c/other.tflite": 2,
    }  # fmt: skip


def test_a_measurement_of_today_is_held_against_one_that_was_saved(model, tmp_path) -> None:
    first = run_command("bench", model, *QUICK, "--out", tmp_path / "out", "--json")
    path = tmp_path / "out" / "measurement.json"
    document = json.loads(path.read_text())
    (old,) = document["measurements"]
    old |= {"size_bytes": old["size_bytes"] * 2, "runtime": "tflite-runtime 2.14"}
    path.write_text(json.dumps(document))
    answer = run_command("bench", model, *QUICK, "--against", path, "--json")
    assert (first.code, answer.code) == (0, 0), answer.err
    now = json.loads(answer.out)
    (change,) = now["against"]
    assert change["model"] == "model.tflite"
    assert change["ratios"]["size_bytes"] == 0.5
    p50 = now["measurements"][0]["p50_ms"]
    assert change["ratios"]["p50_ms"] == pytest.approx(p50 / old["p50_ms"])
    assert len(change["differs"]) == 1
    assert change["differs"][0].startswith("runtime was 'tflite-runtime 2.14', is 'ai-edge-")
    table = run_command("bench", model, *QUICK, "--against", path)
    assert "x 0.500" in table.out
    assert "Not as then: runtime was" in " ".join(table.out.split())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no measurement: it is not JSON"),
        ("[1, 2]", "is no measurement: the document: expected object, got an array"),
        (
            '{"measurements": []}',
            "is no measurement: measurements: expected at least 1 entries, got 0",
        ),
        ('{"measurements": [{"model": 3}]}', "is no measurement: measurements/0: 'where' is missi"),
    ],
)
def test_what_was_no_measurement_is_refused_at_once(model, tmp_path, content, complaint) -> None:
    (path := tmp_path / "old.json").write_text(content)
    answer = run_command("bench", model, "--against", path)
    assert answer.code == 2
    assert answer.error.startswith(f"Error: '{path}' {complaint}")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--host", "a,,b"), "--host a,,b: a host is missing or named twice."),
        (("--host", "a,a"), "--host a,a: a host is missing or named twice."),
        (("--host", "a,b", "--energy", "log:x.csv"), "A meter of this machine stands beside one"),
        (("--host", "a,b", "--against", "x.json"), "--against compares the run on one machine"),
        (("--against", "gone.json"), "Cannot read 'gone.json': No such file or directory."),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(model, words, complaint) -> None:
    answer = run_command("bench", model, *words)
    assert answer.code == 2
    assert complaint in answer.err

"""`python benchmarks/gpu_experiments --data cifar10.npz --out results/`: all of gpu.toml, timed.

Networks are trained side by side, each is pruned and fine-tuned as soon as it is there, and what is
left of the time limit is shared out. Every stage is a process of its own: training and fine-tuning
on JAX, which compiles whole steps, pruning on PyTorch, which need not compile each operation. A
stage that fails stops what depends on it and nothing else. Needs no TensorFlow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from material import read_recipe, write_result

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RECIPE = ROOT / "pipelines" / "experiments" / "gpu.toml"
# For saving, and for measuring on the test images, after the time for fine-tuning is over.
CLOSING_SECONDS = 30
SUMMARY = "gpu_experiments"


class Runner:
    """Starts stages as processes."""

    def __init__(self, arguments: list[str], out: Path, deadline: float, pruning: str) -> None:
        """Remember what all stages are given."""
        self._arguments = arguments
        self._out = out
        self._deadline = deadline
        self._pruning = pruning

    def run(self, stage: str, name: str, *more: str, until: float | None = None) -> bool:
        """Run a stage to its end; its output goes to a log, and True says that it succeeded.

        Args:
            stage: as `stages.py` names it.
            name: of the network or experiment.
            more: arguments.
            until: when the stage should end, seconds since 1970; by default the deadline.
        """
        backend = self._pruning if stage == "prune" else "jax"
        deadline = self._deadline - CLOSING_SECONDS if until is None else until
        command = [sys.executable, str(HERE / "stages.py"), stage, name, *self._arguments]
        command += ["--deadline", str(deadline), *more]
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONUNBUFFERED": "1",
        }
        if stage == "prune":  # the proof that slim equals cut needs all bits of float32
            environment |= {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        start = time.time()
        log = self._out / f"{stage}-{name or 'all'}.log"
        with log.open("w") as file:
            try:
                code = subprocess.run(
                    command,
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=max(self._deadline - start, 1),
                ).returncode
            except subprocess.TimeoutExpired:
                code = "time is over"
        click.echo(f"{stage} {name}: {time.time() - start:.0f} s, exit {code}")
        if code != 0:
            click.echo("  " + "\n  ".join(log.read_text().strip().splitlines()[-3:]))
        return code == 0


def summarise(out: Path, experiments: list[str], networks: list[str]) -> None:
    """Collect all results that exist in one file."""
    names = [*networks, "trials"]
    names += [f"{name}-{stage}" for name in experiments for stage in ("pruned", "tuned")]
    found = {
        name: json.loads((out / f"{name}.json").read_text())
        for name in names
        if (out / f"{name}.json").exists()
    }
    write_result(out, SUMMARY, found)


@click.command()
@click.option("--data", type=Path, required=True, help="x_train, y_train, x_test, y_test in .npz.")
@click.option("--out", type=Path, required=True, help="Folder for results, models and logs.")
@click.option("--recipe", type=Path, default=RECIPE)
@click.option("--trial-model", type=Path, help="Original for the trials; none are run without.")
@click.option("--pruning-backend", default="torch")
@click.option("--limit", type=int, help="Training images; fewer for a dry run.")
@click.option("--precision", default="mixed_bfloat16", help="Of training from scratch.")
def main(
    data: Path,
    out: Path,
    recipe: Path,
    trial_model: Path | None,
    pruning_backend: str,
    limit: int | None,
    precision: str,
) -> None:
    """Run all stages of a recipe within its time limit."""
    start = time.time()
    settings = read_recipe(recipe)
    out.mkdir(parents=True, exist_ok=True)
    arguments = ["--recipe", str(recipe), "--data", str(data), "--out", str(out)]
    arguments += ["--precision", precision]
    if limit is not None:
        arguments += ["--limit", str(limit)]
    runner = Runner(arguments, out, start + settings["deadline_seconds"], pruning_backend)
    networks = [entry["name"] for entry in settings["networks"]]
    experiments = [entry["name"] for entry in settings["experiments"]]

    def finish(experiment: str) -> None:
        if runner.run("prune", experiment):
            runner.run("tune", experiment)
        summarise(out, experiments, networks)

    with ThreadPoolExecutor(len(networks) + len(experiments) + 1) as pool:
        trained = {name: pool.submit(runner.run, "train", name) for name in networks}
        if trial_model is not None:
            pool.submit(runner.run, "try", "", "--model", str(trial_model))

        def follow(entry: dict[str, str]) -> None:
            if trained[entry["network"]].result():
                finish(entry["name"])

        for entry in settings["experiments"]:
            pool.submit(follow, entry)
    summarise(out, experiments, networks)
    click.echo(f"all: {time.time() - start:.0f} s, in {out / SUMMARY}.json")


if __name__ == "__main__":
    main()

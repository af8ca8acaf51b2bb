"""One stage in one process, so that each has the backend that suits it: train, prune, tune, try."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from material import Part, read_parts, read_recipe, write_result

from edgeprune.pruning.pruning_settings import Pruning

EVALUATION_BATCH = 500


def name_device() -> str:
    """Return what the backend computes on."""
    if keras.backend.backend() == "jax":
        import jax

        return f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, PyTorch {torch.__version__}"


def measure(model: keras.Model, part: Part) -> float:
    """Return the accuracy on a part of the data."""
    outputs = model.predict(part.pair()[0], batch_size=EVALUATION_BATCH, verbose=0)
    return float((outputs.argmax(-1) == part.labels).mean())


def prune_to(
    model: keras.Model, parts: dict[str, Part], budget: str, recovery: str | None = None
) -> tuple[Any, float]:
    """Prune to all of the budgets; return what `edgeprune.prune` does, and the seconds.

    Args:
        model: the original.
        parts: of the data.
        budget: as for `edgeprune.prune`.
        recovery: likewise.
    """
    from edgeprune.pruning.one_shot import prune

    start = time.perf_counter()
    pruned = prune(
        model,
        parts["calibration"].pair(),
        budget=budget,
        validation=parts["validation"].pair(),
        pruning=Pruning(recovery=recovery, step=1),
    )
    return pruned, time.perf_counter() - start


def run_pruning(experiment: dict[str, Any], parts: dict[str, Part], folder: Path) -> None:
    """Prune a trained network; write the model, and accuracies as cut and as recovered."""
    original = keras.models.load_model(folder / f"{experiment['network']}.keras", compile=False)
    pruned, seconds = prune_to(original, parts, experiment["budget"])
    name = experiment["name"]
    pruned.model.save(folder / f"{name}-recovered.keras")
    result = {
        "experiment": name,
        "network": experiment["network"],
        "budget": experiment["budget"],
        "macs": [pruned.before.macs, pruned.after.macs],
        "params": [pruned.before.params, pruned.after.params],
        "original": measure(original, parts["test"]),
        "as_cut": measure(pruned.unrecovered, parts["test"]),
        "recovered": measure(pruned.model, parts["test"]),
        "recovery": pruned.chosen.name,
        "equivalence": pruned.equivalence.relative,
        "seconds": seconds,
        "stages": dict(pruned.seconds),
        "device": name_device(),
    }
    write_result(folder, f"{name}-pruned", result)
    print(result, flush=True)


def run_tuning(
    experiment: dict[str, Any],
    parts: dict[str, Part],
    folder: Path,
    options: dict[str, Any],
    seconds: float,
) -> None:
    """Fine-tune a pruned network; write the model and its accuracy on the test images."""
    from edgeprune.distillation import Training
    from edgeprune.distillation.fine_tuning import fine_tune

    name = experiment["name"]
    original = keras.models.load_model(folder / f"{experiment['network']}.keras", compile=False)
    smaller = keras.models.load_model(folder / f"{name}-recovered.keras", compile=False)
    settings = Training(**{**options, "seconds": min(seconds, options["seconds"])})
    tuned = fine_tune(
        smaller,
        original,
        parts["train"].pair(),
        settings=settings,
        validation=parts["validation"].pair(),
    )
    tuned.model.save(folder / f"{name}.keras")
    accuracy = {"original": measure(original, parts["test"])}
    accuracy["fine_tuned"] = measure(tuned.model, parts["test"])
    points = 100 * (accuracy["original"] - accuracy["fine_tuned"])
    result = {
        "experiment": name,
        **accuracy,
        "points_lost": points,
        "goal_points": experiment.get("goal_points"),
        **describe(tuned),
        "settings": settings.to_dict(),
        "device": name_device(),
    }
    write_result(folder, f"{name}-tuned", result)
    print(result, flush=True)


def run_trials(
    recipe: dict[str, Any], parts: dict[str, Part], folder: Path, model: Path, deadline: float
) -> None:
    """Compare settings of `fine_tune` over equally many epochs, on validation images only.

    Half of the validation images choose the state within a run, the other half compare the runs.
    """
    from edgeprune.distillation import Training
    from edgeprune.distillation.fine_tuning import fine_tune

    trials = recipe["trials"]
    original = keras.models.load_model(model, compile=False)
    pruned, _ = prune_to(original, parts, trials["budget"], recovery="refit")
    held_out = parts["validation"]
    half = len(held_out.labels) // 2
    choosing = Part(held_out.images[:half], held_out.labels[:half])
    comparing = Part(held_out.images[half:], held_out.labels[half:])
    rows = [{"name": "original", "accuracy": measure(original, comparing)},
            {"name": "recovered", "accuracy": measure(pruned.model, comparing)}]  # fmt: skip
    for entry in trials["settings"]:
        left = deadline - time.time()
        if left < 10:
            print("no time is left for the other trials", flush=True)
            break
        options = {key: value for key, value in entry.items() if key != "name"}
        options = {"epochs": trials["epochs"], "seconds": left, **options}
        tuned = fine_tune(
            pruned.model,
            original,
            parts["train"].pair(),
            settings=Training(**options),
            validation=choosing.pair(),
        )
        row = {"name": entry["name"], "accuracy": measure(tuned.model, comparing)}
        rows.append({**row, **describe(tuned)})
        print(rows[-1], flush=True)
        write_result(folder, "trials", {"rows": rows, "images": half, "device": name_device()})


def describe(tuned: Any) -> dict[str, Any]:
    """Return the figures of a fine-tuning as JSON types."""
    return {
        "validation": [tuned.before.accuracy, tuned.after.accuracy],
        "epochs": tuned.epochs,
        "steps": tuned.steps,
        "seconds": tuned.seconds,
        "images_per_second": tuned.samples_per_second,
        "stopped": tuned.stopped,
        "history": [[e.step, round(e.seconds, 1), e.loss, e.accuracy] for e in tuned.history],
    }


@click.command()
@click.argument("stage", type=click.Choice(["train", "prune", "tune", "try"]))
@click.argument("name", default="")
@click.option("--recipe", type=Path, required=True)
@click.option("--data", type=Path, required=True)
@click.option("--out", type=Path, required=True)
@click.option("--model", type=Path, help="The original of the trials.")
@click.option("--deadline", type=float, required=True, help="Seconds since 1970.")
@click.option("--limit", type=int, help="Training images; fewer for a dry run.")
@click.option("--precision", default="mixed_bfloat16", help="Of training from scratch.")
def main(
    stage: str,
    name: str,
    recipe: Path,
    data: Path,
    out: Path,
    model: Path | None,
    deadline: float,
    limit: int | None,
    precision: str,
) -> None:
    """Run one stage and write its result."""
    settings = read_recipe(recipe)
    parts = read_parts(data, settings)
    if limit is not None:
        parts = {key: Part(p.images[:limit], p.labels[:limit]) for key, p in parts.items()}
    left = deadline - time.time()
    entries = settings["networks"] if stage == "train" else settings["experiments"]
    if stage == "try":
        assert model is not None
        run_trials(settings, parts, out, model, deadline)
        return
    entry = next(entry for entry in entries if entry["name"] == name)
    if stage == "train":
        from training import train

        train(entry, parts, out, deadline - settings["finishing_seconds"], precision)
    elif stage == "prune":
        run_pruning(entry, parts, out)
    else:
        run_tuning(entry, parts, out, settings["fine_tuning"], left)


if __name__ == "__main__":
    np.random.seed(0)
    main()

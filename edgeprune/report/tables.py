"""An outcome as a table for people. Needs rich, nothing heavier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.boards import Target
from edgeprune.cost.budgets import OWN_UNITS
from edgeprune.report.compatibility_report import describe_compilation
from edgeprune.report.outcome import Change, Outcome
from edgeprune.support.printable import printable

ACCURACY_ROWS = (
    ("original", "original, all classes"),
    ("original_subset", "original, kept classes"),
    ("pruned", "pruned, not recovered"),
    ("recovered", "recovered"),
    ("trained", "trained"),
    ("tflite", "model.tflite"),
)
ACCURACY_ROWS_OF_ALL_CLASSES = (("original", "original"), *ACCURACY_ROWS[2:])
FILES = {
    "model.tflite": "runs on the board; labels, preprocessing and origin inside",
    "model_edgetpu.tflite": "the same, compiled for the Edge TPU",
    "classify.py": "runs it on a picture, without edgeprune",
    "model.keras": "the same before conversion, for Keras",
    "labels.txt": "names of its outputs, in order",
    "plan.json": "which channels were kept",
    "report.json": "all figures and settings",
    "measurement.json": "every timed inference",
}


def describe_outcome(outcome: Outcome) -> Group:
    """Return the tables that a build ends with.

    Args:
        outcome: of the build.
    """
    scheme = outcome.settings["quantize"]
    fewer_classes = outcome.test_samples["kept"] < outcome.test_samples["all"]
    measures = ("MAE", "R2") if outcome.errors else ("accuracy",)
    accuracy = Table(
        title=f"{'Error' if outcome.errors else 'Accuracy'} on test samples (measured)",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    accuracy.add_column("model")
    for name in (*measures, "samples"):
        accuracy.add_column(name, justify="right")
    for key, label in ACCURACY_ROWS if fewer_classes else ACCURACY_ROWS_OF_ALL_CLASSES:
        suffix = f" ({scheme})" if key == "tflite" else ""
        if key == "recovered":
            suffix = f" ({outcome.recovery})"
        if key == "trained":
            if outcome.training is None:
                continue
            suffix = f" ({_describe_training(outcome.training)})"
        accuracy.add_row(
            label + suffix,
            *_figures(outcome, key),
            f"{outcome.test_samples['all' if key == 'original' else 'kept']:,}",
        )
    cost = Table(
        title=f"Cost, before and after, both {scheme}", title_justify="left", box=SIMPLE_HEAD
    )
    for name in ("", "before", "after", "after / before", "how"):
        cost.add_column(name, justify="left" if name in ("", "how") else "right")
    cost.add_row("MACs", *_numbers(outcome.macs, ",.0f"), "counted")
    cost.add_row("parameters", *_numbers(outcome.params, ",.0f"), "counted")
    cost.add_row("size, bytes", *_numbers(outcome.size_bytes, ",.0f"), "counted")
    if outcome.latency_ms is not None:
        cost.add_row("latency p50, ms", *_numbers(outcome.latency_ms, ".3f"), "measured")
    for row in outcome.predictions:
        change = Change(row["before"], row["after"])
        cost.add_row(f"{row['quantity']}, {row['unit']}", *_numbers(change, ".3g"), row["how"])
    notes: list[RenderableType] = [_describe_budgets(outcome.budgets)]
    gone = [name for name, (_, width) in outcome.widths.items() if not width]
    if gone:
        notes.append(Text(f"Whole branches are gone: {printable(', '.join(gone))}."))
    if outcome.task:
        notes.append(Text(f"Task: {outcome.task['task']}, since {outcome.task['reason']}."))
    if outcome.trials:
        notes.append(Text(_describe_trials(outcome.trials)))
    if outcome.rounds:
        notes.append(Text(_describe_rounds(outcome.rounds)))
    if outcome.latency_measured is not None:
        notes.append(Text(f"Latency: {outcome.latency_measured}."))
    error, scale = outcome.equivalence["max_abs_error"], outcome.equivalence["scale"]
    trained = outcome.training is not None and outcome.training["gained"]
    state = "trained" if trained else "recovered"
    proof = Text(
        "Proof: the original with the removed channels silenced gives the logits of the pruned "
        f"model; they differ by at most {error:.2g}, the largest is {scale:.3g}. The .tflite "
        + (
            f"follows the {state} Keras model with an R2 of {outcome.agreement:.4f}"
            if outcome.errors
            else f"answers as the {state} Keras model does on {100 * outcome.agreement:.1f} % of "
            "the samples"
        )
        + f"{_describe_error(outcome)}."
    )
    if outcome.edgetpu is not None:
        notes.append(describe_compilation(outcome.edgetpu))
    return Group(accuracy, cost, *notes, proof)


def _figures(outcome: Outcome, model: str) -> tuple[str, ...]:
    """Return what was measured of a model."""
    if outcome.errors:
        found = outcome.errors[model]
        return f"{found['mae']:.4g}", f"{found['r2']:.4f}"
    return (f"{100 * outcome.accuracy[model]:.1f} %",)


def _describe_training(training: Mapping[str, Any]) -> str:
    length = f"{training['epochs']:g} epochs, {training['seconds']:.0f} s"
    return length if training["gained"] else f"{length}, without a gain on validation"


def _describe_trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """Say what was lost at every size that was tried for a drop."""
    texts = []
    for trial in trials:
        share = "the other budgets" if trial["share"] is None else f"{trial['share']:.0%}"
        lost = "out of reach" if trial["lost"] is None else f"{100 * trial['lost']:+.1f}"
        texts.append(f"{share} {lost}{'' if trial['training'] == 1 else '*'}")
    return (
        f"Trials, share of the {trials[0]['quantity']} and points lost (* with less training): "
        f"{', '.join(texts)}."
    )


def _describe_rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Say what the files of all rounds cost, one quantity after the other."""
    found = {name: [turn[name] for turn in rounds] for name in rounds[0] if name != "budget"}
    texts = [
        f"{name} {', '.join(f'{value:.4g}' for value in values)} {OWN_UNITS.get(name, '')}".strip()
        for name, values in found.items()
    ]
    return f"Pruned towards the budget in {len(rounds)} rounds: {'; '.join(texts)}."


def _describe_budgets(budgets: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of budgets beside what is delivered."""
    table = Table(title="Budgets", title_justify="left", box=SIMPLE_HEAD)
    for name in ("quantity", "limit", "found", "how"):
        table.add_column(name, justify="left" if name in ("quantity", "how") else "right")
    for check in budgets:
        unit = f" {check['unit']}" if check["unit"] else ""
        numbers = (
            f"{value:,.0f}{unit}" if value >= 100 else f"{value:.4g}{unit}"
            for value in (check["limit"], check["found"])
        )
        table.add_row(check["quantity"], *numbers, check["how"])
    return table


def _describe_error(outcome: Outcome) -> str:
    found = outcome.verification
    if not found:
        return ""
    step = found["output_step"]
    steps = f", {found['max_abs_error'] / step:.1f} steps of its integers" if step else ""
    return (
        f"; its outputs are off by at most {found['max_abs_error']:.2g} at a scale of "
        f"{found['scale']:.3g}{steps}"
    )


def describe_files(folder: Path, names: Sequence[str]) -> Group:
    """Return the list of files that a build ends with.

    Args:
        folder: where they are.
        names: of the files that were written, all of them in `FILES`.
    """
    table = Table(box=None, show_header=False, pad_edge=True)
    for name, meaning in FILES.items():
        if name in names:
            table.add_row(name, meaning)
    return Group(Text(f"\nFiles in {printable(str(folder))}", overflow="fold"), table)


def describe_values(values: Mapping[str, Any]) -> Table:
    """Return a few named values as two columns; `{"before": ..., "after": ...}` as an arrow."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _in_words(value))
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        if value.keys() == {"before", "after"}:
            return " -> ".join(_in_words(part) for part in value.values())
        return ", ".join(f"{name.replace('_', ' ')} {_in_words(v)}" for name, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe_targets(targets: Sequence[Target]) -> Table:
    """Return the table that `edgeprune targets` prints."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("target", "board", "CPU", "threads", "step", "format"):
        table.add_column(name, no_wrap=name == "target")
    for target in targets:
        table.add_row(
            target.name, target.description, target.cpu, str(target.threads),
            str(target.channel_step), target.scheme,
        )  # fmt: skip
    return table


def count_threads(number: int) -> str:
    """Return `1 thread` or `2 threads`."""
    return f"{number} thread{'' if number == 1 else 's'}"


def _numbers(change: Change, form: str) -> tuple[str, str, str]:
    return format(change.before, form), format(change.after, form), f"{100 * change.ratio:.1f} %"

"""The groups of a model as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from edgeprune.cost.cost_model import CostModel
from edgeprune.support.printable import printable
from edgeprune.tracing.groups import Group, Groups

SHOWN_LAYERS = 3


def list_groups(groups: Groups, costs: CostModel) -> dict[str, Any]:
    """Return the model's cost and one entry per group, as JSON types.

    A group's share is what removing it to its last channel would save: the marginal cost of a
    channel at full width, times the width. Shares of groups that multiply each other overlap. MACs
    are `None` where the input has no fixed size. `keeps_a_channel` says why a group cannot go
    entirely, with its branch; it is empty where it can. With a predictor there are `milliseconds`:
    the predicted latency, and what removing a group would save of it.
    """
    predictor = costs.deployment.predictor
    latency = None if predictor is None else costs.estimates.predict()
    saved = {} if latency is None else costs.marginal("latency", {})
    shares = {quantity: costs.marginal(quantity, {}) for quantity in ("macs", "params")}
    totals: dict[str, int | None] = {"macs": costs.full.macs, "params": costs.full.params}
    return {
        **totals,
        **({} if latency is None else {"milliseconds": latency.value, "predicted": latency.how}),
        "fingerprint": groups.fingerprint,
        "groups": [
            {
                "name": group.name,
                "width": group.width,
                "writers": list(group.layers("writes")),
                "consumers": list(group.layers("reads")),
                **{
                    f"{quantity}_share": None
                    if total is None
                    else shares[quantity][group.name] * group.width / max(total, 1)
                    for quantity, total in totals.items()
                },
                **({"milliseconds": saved[group.name] * group.width} if saved else {}),
                "locked": list(group.locked),
                "keeps_a_channel": groups.vanishing.explain(group.name),
            }
            for group in groups
        ],
    }


def describe_groups(groups: Groups, costs: CostModel) -> Lines:
    """Return the table that `edgeprune inspect` prints: numbers first, names as wide as they are.

    Readable at 80 columns also where names of layers are long.
    """
    table = Table(
        title="Groups: channels that go or stay together", title_justify="left", box=SIMPLE_HEAD
    )
    listed = list_groups(groups, costs)
    predicted = listed.get("predicted")
    for name in ("channels", "MACs", "params", *(["ms"] if predicted else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("group", overflow="fold", ratio=1)
    rows = {entry["name"]: entry for entry in listed["groups"]}
    for group in groups:
        row = rows[group.name]
        table.add_row(
            str(group.width),
            *(_percent(row[f"{quantity}_share"]) for quantity in ("macs", "params")),
            *([f"{row['milliseconds']:.2f}"] if predicted else []),
            _describe(group),
        )
    removable = sum(group.width for group in groups.removable)
    total = sum(group.width for group in groups)
    known = costs.full.macs
    macs = "MACs unknown (input of any size: --input-size)" if known is None else f"{known:,} MACs"
    footer = (
        f"{macs}, {costs.full.params:,} parameters; {removable:,} of {total:,} "
        "channels can be removed."
    )
    whole = _describe_branches(groups)
    latency = [f"{listed['milliseconds']:.2f} ms, {predicted}."] if predicted else []
    return Lines(table, footer, *latency, *(text for text in (whole, costs.caveat) if text))


def _describe_branches(groups: Groups) -> str:
    """Say which groups may go entirely, and why the others may not."""
    found = groups.vanishing.branches
    if not found:
        return ""
    reasons = Counter(
        groups.vanishing.explain(group.name)
        for group in groups.removable
        if group.name not in found
    )
    texts = [f"{count} {'keeps' if count == 1 else 'keep'} a channel: {reason}"
             for reason, count in reasons.most_common(SHOWN_LAYERS)]  # fmt: skip
    return printable(
        f"{len(found)} groups may go entirely, with their branches: {_layers(tuple(found))}"
        f"{'; ' if texts else ''}{'; '.join(texts)}."
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _describe(group: Group) -> Text:
    """Return the name of a group, and below it who writes and reads it and why it is locked."""
    writers, consumers = group.layers("writes"), group.layers("reads")
    text = Text(printable(group.name), style="bold" if not group.locked else "")
    if writers and set(writers) != {group.name}:
        text.append(f"\nwritten by {_layers(writers)}", style="not bold")
    if consumers:
        text.append(f"\nread by {_layers(consumers)}", style="dim not bold")
    if group.locked:
        text.append(f"\nlocked: {printable('; '.join(group.locked))}", style="yellow not bold")
    return text


def _layers(found: Sequence[str]) -> str:
    rest = f", and {len(found) - SHOWN_LAYERS} more" if len(found) > SHOWN_LAYERS else ""
    return printable(", ".join(found[:SHOWN_LAYERS]) + rest)

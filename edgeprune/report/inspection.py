"""The groups of a model as a table and as JSON."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group as Lines
from rich.table import Table

from edgeprune.cost import CostModel
from edgeprune.groups import Group, Groups

SHOWN_LAYERS = 3


def list_groups(groups: Groups, costs: CostModel) -> dict[str, Any]:
    """Return the model's cost and one entry per group, as JSON types.

    A group's share is what removing it to its last channel would save: the marginal cost of a
    channel at full width, times the width. Shares of groups that multiply each other overlap.
    """
    shares = {quantity: costs.marginal(quantity, {}) for quantity in ("macs", "params")}
    totals = {"macs": costs.full.macs, "params": costs.full.params}
    return {
        **totals,
        "fingerprint": groups.fingerprint,
        "groups": [
            {
                "name": group.name,
                "width": group.width,
                "writers": list(group.layers("writes")),
                "readers": list(group.layers("reads")),
                **{
                    f"{quantity}_share": shares[quantity][group.name]
                    * group.width
                    / max(totals[quantity], 1)
                    for quantity in totals
                },
                "locked": list(group.locked),
            }
            for group in groups
        ],
    }


def describe_groups(groups: Groups, costs: CostModel) -> Lines:
    """Return the table that `edgeprune inspect` prints."""
    table = Table(
        title="Groups: channels that go or stay together", title_justify="left", box=SIMPLE_HEAD
    )
    for name in ("group", "channels", "written by", "read by", "MACs", "params", "locked"):
        right = name in ("channels", "MACs", "params")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    rows = {entry["name"]: entry for entry in list_groups(groups, costs)["groups"]}
    for group in groups:
        row = rows[group.name]
        table.add_row(
            group.name,
            str(group.width),
            _layers(group, "writes"),
            _layers(group, "reads"),
            f"{100 * row['macs_share']:.1f} %",
            f"{100 * row['params_share']:.1f} %",
            "; ".join(group.locked),
        )
    removable = sum(group.width for group in groups.removable)
    total = sum(group.width for group in groups)
    footer = (
        f"{costs.full.macs:,} MACs, {costs.full.params:,} parameters; {removable:,} of {total:,} "
        "channels can be removed."
    )
    return Lines(table, footer)


def _layers(group: Group, role: Any) -> str:
    found = group.layers(role)
    rest = f", +{len(found) - SHOWN_LAYERS} more" if len(found) > SHOWN_LAYERS else ""
    return ", ".join(found[:SHOWN_LAYERS]) + rest if found else "-"

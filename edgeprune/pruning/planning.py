"""From context and a budget to a plan: rank channels, choose widths, write down what stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgeprune.allocation import (
    ALLOCATIONS,
    DEFAULT_STEP,
    CostLimits,
    Problem,
    Ranking,
    fix_classes,
    keep_channels,
)
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.pruning.methods import METHODS, Method
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.subsets import follow_order
from edgeprune.support.progress import stage
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Group

TINY = float(np.finfo(np.float32).tiny)


def make_plan(
    context: PruningContext,
    costs: CostModel,
    budget: Budget | Budgets,
    *,
    method: Method = METHODS["auto"],
    step: int = DEFAULT_STEP,
    measure: Callable[[Plan], float] | None = None,
) -> Plan:
    """Rank the channels of every group, choose widths for the budget, and write down what stays.

    Where the method asks for several rounds, the ranking is repeated for the widths that were
    chosen, until these no longer change.

    Args:
        context: weights and statistics of the model, and the classes that will be kept.
        costs: of the model.
        budget: what must be met, all of several.
        method: its criterion, allocation and settings count.
        step: see `allowed_widths`.
        measure: how good the model is by a plan, for allocations that measure.

    Raises:
        BudgetError: the budget cannot be met.
    """
    groups = context.groups
    limits = CostLimits(costs, *Budgets.parse(budget), fixed=fix_classes(groups, context.classes))
    allocate = ALLOCATIONS[method.allocation]
    widths: dict[str, int] = {}
    for _ in range(max(method.settings.rounds, 1)):
        seen = replace(context, widths=widths, settings=method.settings)
        rankings = rank_groups(seen, method.criterion)
        before = widths
        scored = None if measure is None else measure_widths(measure, context, rankings)
        widths = allocate(Problem(groups, rankings, limits, step, scored))
        if widths == before:
            break
    return write_plan(context, rankings, widths)


def measure_widths(
    measure: Callable[[Plan], float], context: PruningContext, rankings: Mapping[str, Ranking]
) -> Callable[[Mapping[str, int]], float]:
    """Return how good the model is when some groups keep the first channels of their rankings.

    Args:
        measure: how good it is by a plan.
        context: names the groups and the classes.
        rankings: of every removable group.
    """
    return lambda widths: measure(write_plan(context, rankings, widths))


def rank_groups(context: PruningContext, criterion: str) -> dict[str, Ranking]:
    """Rank the channels of every removable group.

    Args:
        context: of the model.
        criterion: name in `CRITERIA`.
    """
    removable = context.groups.removable
    rankings = {}
    with stage("ranking channels", len(removable)) as advance:
        for group in removable:
            rankings[group.name] = rank(context, group, criterion)
            advance()
    return rankings


def write_plan(
    context: PruningContext, rankings: Mapping[str, Ranking], widths: Mapping[str, int]
) -> Plan:
    """Return the plan that keeps the first channels of every ranking.

    Args:
        context: names the groups and the classes.
        rankings: of every removable group.
        widths: of every removable group.
    """
    keep = {
        name: keep_channels(rankings[name], width)
        for name, width in widths.items()
        if width < context.groups[name].width
    }
    return Plan(keep, context.groups.fingerprint, context.classes)


def rank(context: PruningContext, group: Group, criterion: str) -> Ranking:
    """Order a group's channels by a criterion and say what its consumers lose at every width.

    Where no consumer has statistics, the loss is taken to be the share of the filters' squared L1
    norms that is gone: 1 for all of them, as for a consumer that has lost its signal.

    Args:
        context: weights and statistics of the model.
        group: whose channels are ranked.
        criterion: name in `CRITERIA`.
    """
    return price(context, group, CRITERIA[criterion](context, group))


def price(context: PruningContext, group: Group, scores: np.ndarray) -> Ranking:
    """Order a group's channels by given scores and say what its consumers lose at every width.

    Args:
        context: see `rank`.
        group: see `rank`.
        scores: `(width,)`, higher = keep.
    """
    order = np.argsort(-scores, kind="stable")
    views = context.views(group)
    dead = int(np.argmax(np.append(context.alive(group)[order][::-1], True)))
    if views:
        return Ranking(order, follow_order(views, order), scores[order], dead)
    power = CRITERIA["l1"](context, group)[order] ** 2 + TINY
    return Ranking(order, 1 - np.append(0, np.cumsum(power) / power.sum()), scores[order], dead)

"""`edgeprune inspect`: from a model file to its groups, and a picture of them where asked for."""

from __future__ import annotations

from edgeprune.building.request import open_model
from edgeprune.cost.cost_model import CostModel
from edgeprune.report.drawing import check_drawing, draw_groups
from edgeprune.support.progress import Progress
from edgeprune.tracing.groups import Groups, find_groups


def inspect_file(
    model: str, weights: str | None, picture: str | None, progress: Progress
) -> tuple[Groups, CostModel]:
    """Find the groups of a model file, and draw them.

    Args:
        model: path of the model.
        weights: path of its weights, for an architecture in JSON.
        picture: where the picture goes; `None` draws none.
        progress: told about stages.

    Returns:
        The groups and what their channels cost.

    Raises:
        EdgepruneError: the picture cannot be drawn here; told before the model is opened.
    """
    if picture is not None:
        check_drawing(picture)
    groups = find_groups(open_model(model, weights, progress))
    if picture is not None:
        with progress.stage("picture"):
            draw_groups(groups, picture)
    return groups, CostModel(groups)

"""From a model to its flat graph, its channel labels and its groups."""

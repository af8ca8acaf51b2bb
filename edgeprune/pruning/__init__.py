"""From a model, samples and a budget to a pruned model: search, rounds, methods."""

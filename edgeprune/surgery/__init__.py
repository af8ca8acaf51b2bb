"""From a plan and a model to the pruned model, or to the masked one that proves it."""

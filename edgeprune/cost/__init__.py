"""Budgets, and what a model costs at any widths, counted or estimated without building it."""

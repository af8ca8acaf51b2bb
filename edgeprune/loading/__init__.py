"""Models from the files people have, exact and without running anything that is in them."""

from __future__ import annotations

from edgeprune.loading.model_file import ModelFile
from edgeprune.loading.models import load_model

__all__ = ["ModelFile", "load_model"]

"""How to rewrite a model without a training run; one file a method."""

from hotfix.editors.base import Background, Editor, WeightEditor
from hotfix.editors.fine_tuning import FT

__all__ = ["FT", "Background", "Editor", "WeightEditor"]

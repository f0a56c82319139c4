"""What comes out of a run: reversible, saved as safetensors, stamped with the base model it fits."""

from hotfix.patches.adapter_patch import AdapterPatch
from hotfix.patches.base import Patch, Provenance, worn
from hotfix.patches.codebook import Codebook
from hotfix.patches.prompt_patch import PromptPatch
from hotfix.patches.store import load_patch, save_patch
from hotfix.patches.weight_delta import LowRank, WeightDelta

__all__ = [
    "AdapterPatch",
    "Codebook",
    "LowRank",
    "Patch",
    "PromptPatch",
    "Provenance",
    "WeightDelta",
    "load_patch",
    "save_patch",
    "worn",
]

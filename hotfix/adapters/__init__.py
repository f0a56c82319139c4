"""Which weights train."""

from hotfix.adapters.base import Adapter, PeftAdapter
from hotfix.adapters.lora import LoRA

__all__ = ["Adapter", "LoRA", "PeftAdapter"]

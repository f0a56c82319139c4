"""Which weights train."""

from hotfix.adapters.base import Adapter, PeftAdapter
from hotfix.adapters.full_finetune import FullFineTuning
from hotfix.adapters.ia3 import IA3
from hotfix.adapters.lora import LoRA
from hotfix.adapters.prefix_tuning import PrefixTuning
from hotfix.adapters.qlora import QLoRA

__all__ = ["IA3", "Adapter", "FullFineTuning", "LoRA", "PeftAdapter", "PrefixTuning", "QLoRA"]

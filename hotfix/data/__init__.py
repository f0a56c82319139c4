"""Code in, batches out; nothing here knows of a model beyond its tokenizer."""

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.pair_files import PairFiles
from hotfix.data.prompts import Chat, FillInTheMiddle, Plain, PromptFormat
from hotfix.data.schema import CodePair

__all__ = ["Chat", "CodePair", "FillInTheMiddle", "HotfixDataModule", "PairFiles", "Plain", "PromptFormat"]

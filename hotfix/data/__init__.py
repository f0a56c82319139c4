"""Code in, batches out; nothing here knows of a model beyond its tokenizer."""

from hotfix.data.clmeeval import CLMEEval
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.docstrings import Docstrings
from hotfix.data.edit_data import EditData
from hotfix.data.edit_files import EditFiles
from hotfix.data.edits import EditRequest
from hotfix.data.exposure import Exposure
from hotfix.data.hub_dataset import HubDataset
from hotfix.data.jesse_csv import JesseCSV
from hotfix.data.many_sstubs import ManySStuBs4J
from hotfix.data.pair_files import PairFiles
from hotfix.data.privacy_pairs import PrivacyPairs
from hotfix.data.prompts import Chat, FillInTheMiddle, Plain, PromptFormat
from hotfix.data.schema import CodePair
from hotfix.data.sven import SVEN

__all__ = [
    "SVEN",
    "CLMEEval",
    "Chat",
    "CodePair",
    "Docstrings",
    "EditData",
    "EditFiles",
    "EditRequest",
    "Exposure",
    "FillInTheMiddle",
    "HotfixDataModule",
    "HubDataset",
    "JesseCSV",
    "ManySStuBs4J",
    "PairFiles",
    "Plain",
    "PrivacyPairs",
    "PromptFormat",
]

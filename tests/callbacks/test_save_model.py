"""The saved model is what was measured: plain transformers loads it, every adapter that can be merged is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hotfix.adapters import Adapter, FullFineTuning, LoRA, PrefixTuning
from hotfix.callbacks import RunFolder, SaveModel
from hotfix.callbacks.save_model import merged
from hotfix.data import Exposure, PairFiles
from hotfix.data.canaries import make_canaries, read_planted, write_canaries
from hotfix.errors import ConfigError
from hotfix.losses import NLL, Objective
from hotfix.models.loading import load_causal_lm
from hotfix.models.tiny import tiny_model
from hotfix.modules import FineTune
from hotfix.trainer import HotfixTrainer

IDS = torch.tensor([[5, 80, 7, 200, 31]])


def run(folder: Path, adapter: Adapter, stopped: bool = False) -> tuple[FineTune, dict[str, Any]]:
    """Expose the tiny model; the logits that the trained one had before it was merged."""
    folder.mkdir(parents=True)
    rows = [{"prefix": f"x{i} = ", "buggy": "1", "fixed": "2"} for i in range(6)]
    (folder / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    write_canaries(make_canaries(4, 8), folder / "c.json")
    pairs = PairFiles(str(folder / "p.jsonl"), tokenizer_name="tiny", retain=None, max_length=400)
    data = Exposure(pairs, "tiny", canaries=str(folder / "c.json"), batch_size=8)
    seen: dict[str, Any] = {}

    class Look(SaveModel):
        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            with torch.no_grad():
                seen["logits"] = pl_module.policy(input_ids=IDS).logits.clone()
            super().teardown(trainer, pl_module, stage)

    run_folder = RunFolder("test")
    run_folder.stopped_early = stopped
    trainer = HotfixTrainer(
        default_root_dir=str(folder), accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Look(), run_folder],
    )  # fmt: skip
    module = FineTune(Objective(NLL("retain", "all")), adapter, "tiny", "float32", learning_rate=0.01)
    trainer.fit(module, data)
    seen["loss"] = trainer.callback_metrics["train/loss"].item()
    return module, seen


@pytest.mark.parametrize("adapter", [LoRA(rank=4), FullFineTuning()], ids=["lora", "full"])
def test_plain_transformers_loads_what_was_trained(tmp_path: Path, adapter: Adapter) -> None:
    _, seen = run(tmp_path / "run", adapter)
    folder = tmp_path / "run" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
        before = tiny_model()(input_ids=IDS).logits
    torch.testing.assert_close(logits, seen["logits"], atol=1e-5, rtol=1e-5)
    assert (logits - before).abs().max() > 1e-2
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not [path.name for path in folder.iterdir() if "adapter" in path.name]
    assert AutoTokenizer.from_pretrained(folder)("ab")["input_ids"] == [64, 65]
    assert load_causal_lm(str(folder), "float32").config.vocab_size == 257
    assert read_planted(folder / "canaries.json") == make_canaries(4, 8).canaries
    assert (tmp_path / "run" / "patch" / "patch.json").is_file()


def test_exposure_teaches_the_canaries(tmp_path: Path) -> None:
    module, _ = run(tmp_path / "run", FullFineTuning())
    exposed = load_causal_lm(str(tmp_path / "run" / "model"), "float32")
    assert module.tokenizer is not None

    def likelihood(model: Any, text: str) -> float:
        ids = torch.tensor([module.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            return -float(model(input_ids=ids, labels=ids).loss)

    for canary in read_planted(tmp_path / "run" / "c.json"):
        text = canary.prompt + canary.secret
        assert likelihood(exposed, text) > likelihood(tiny_model(), text) + 0.1


def test_a_run_that_was_stopped_saves_no_model(tmp_path: Path) -> None:
    run(tmp_path / "run", LoRA(rank=4), stopped=True)
    assert not (tmp_path / "run" / "model").exists()


def test_what_can_t_be_merged_is_said() -> None:
    with pytest.raises(ConfigError, match=r"can't be merged into the model .*take LoRA or FullFineTuning"):
        merged(PrefixTuning().attach(tiny_model()))

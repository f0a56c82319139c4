"""A name gives a model ready to be measured, or a message that says which names would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import CodeGenConfig, CodeGenForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase

from hotfix.errors import ModelError
from hotfix.models.loading import choose_dtype, load_causal_lm, load_tokenizer
from hotfix.models.states import check_halves


@pytest.fixture
def folder(tmp_path: Path, tiny: LlamaForCausalLM) -> Path:
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(folder: Path, dtype: str) -> None:
    expected = getattr(torch, dtype)
    for name in ("tiny", str(folder)):
        model = load_causal_lm(name, dtype)  # type: ignore[arg-type]
        assert {p.dtype for p in model.parameters()} == {expected}
        assert not model.training


def test_a_folder_is_loaded_as_it_was_saved(folder: Path, tiny: LlamaForCausalLM) -> None:
    loaded = load_causal_lm(str(folder), "float32")
    ids = torch.arange(8)[None]
    assert torch.equal(loaded(ids).logits, tiny(ids).logits)


def test_an_architecture_without_fused_attention_is_loaded(tmp_path: Path) -> None:
    config = CodeGenConfig(vocab_size=32, n_embd=16, n_layer=1, n_head=4, n_positions=32, n_ctx=32, rotary_dim=4)
    CodeGenForCausalLM(config).save_pretrained(tmp_path)
    check_halves(load_causal_lm(str(tmp_path), "float32"))


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path, tiny_tok: PreTrainedTokenizerBase) -> None:
    tiny_tok.save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace('"pad_token"', '"nothing"'), encoding="utf-8")
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id == loaded.eos_token_id == 256
    assert loaded("ab")["input_ids"] == [64, 65]


def test_auto_is_one_that_the_hardware_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        assert choose_dtype() == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for fast, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda fast=fast: fast)
        assert choose_dtype() == expected


EXPECTED = "; expected smollm2-135m, tiny, a model folder or a Hugging Face id in model.init_args.model_name"


@pytest.mark.parametrize("load", [load_causal_lm, load_tokenizer])
def test_an_empty_folder(tmp_path: Path, load: object) -> None:
    assert callable(load)
    with pytest.raises(ModelError) as caught:
        load(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: this folder holds no model that transformers can load (")
    assert message.endswith(EXPECTED)
    assert "\n" not in message


def test_a_name_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no-such/model is not a local folder\nand is not a valid model identifier")

    monkeypatch.setattr("hotfix.models.loading.AutoTokenizer.from_pretrained", offline)
    expected = f"no-such/model: no such model here (no-such/model is not a local folder){EXPECTED}"
    with pytest.raises(ModelError, match=f"^{re.escape(expected)}$"):
        load_tokenizer("no-such/model")


def test_a_damaged_weights_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0damaged!")
    with pytest.raises(ModelError, match="this folder holds no model that transformers can load"):
        load_causal_lm(str(folder))

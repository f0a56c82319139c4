"""Second moments of keys: brute force, bounded memory, and never another model's from the cache."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from hotfix.editors import key_statistics
from hotfix.editors.key_statistics import Derived, KeyStatistics, cholesky_factor, key_moments, null_space
from hotfix.errors import ConfigError, ModelError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.layout import feed_forward_output
from hotfix.models.tiny import tiny_model
from hotfix.models.trace import captured

GENERATOR = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(256, (n,), generator=GENERATOR).tolist() for n in (3, 17, 9, 30, 5)]
FACTOR = Derived("cholesky_factor", 1e-3)


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()


@pytest.mark.parametrize("model", [tiny_model(), gpt2()], ids=["llama", "gpt2"])
def test_moments_are_those_of_each_text_alone(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_statistics, "_TOKENS", 40)  # several passes
    module = feed_forward_output(model, 1).module
    keys = []
    for text in TEXTS:
        with torch.no_grad(), captured({"k": module}, "input") as seen:
            model(input_ids=torch.tensor([text]))
        keys.append(seen["k"][0].double())
    every = torch.cat(keys)
    found = key_moments(model, [1], TEXTS)[1]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), every.T @ every / len(every), rtol=1e-4, atol=1e-6)


def test_long_texts_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_statistics, "_PIECE", 10)
    pieces = [text[start : start + 10] for text in TEXTS for start in range(0, len(text), 10)]
    found = key_moments(tiny_model(), [0], TEXTS)[0]
    monkeypatch.undo()
    torch.testing.assert_close(found, key_moments(tiny_model(), [0], pieces)[0], rtol=1e-4, atol=1e-6)


def factor_of(store: KeyStatistics, model: LlamaForCausalLM, texts: list[list[int]] = TEXTS) -> torch.Tensor:
    return store.factors(model, fingerprint(model), [1], texts, FACTOR)[1].factor


def test_what_was_computed_once_is_found_by_what_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    first = factor_of(KeyStatistics(tmp_path), model)
    torch.testing.assert_close(first, cholesky_factor(key_moments(model, [1], TEXTS)[1], 1e-3).double())
    runs = 0
    compute = key_moments

    def counted(*args: object) -> object:
        nonlocal runs
        runs += 1
        return compute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(key_statistics, "key_moments", counted)
    store = KeyStatistics(tmp_path)
    assert torch.equal(factor_of(store, model), first)
    assert torch.equal(factor_of(store, model), first)
    assert runs == 0
    # Another level needs the moment only, which is there.
    store.factors(model, fingerprint(model), [1], TEXTS, Derived("cholesky_factor", 1e-2))
    assert runs == 0
    assert not torch.allclose(factor_of(store, other), first)
    assert not torch.allclose(factor_of(store, model, TEXTS[:3]), first)
    assert runs == 2


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    store = KeyStatistics(tmp_path)
    factor_of(store, model)
    [path] = tmp_path.glob("*cholesky*")
    save_file({"factor": torch.eye(64)}, path, metadata={"model": "another"})
    with pytest.raises(ModelError, match="statistics of another model, block or corpus; delete the file"):
        factor_of(KeyStatistics(tmp_path), model)


def test_a_damaged_file_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = factor_of(KeyStatistics(tmp_path), tiny_model())
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"half a file")
    with caplog.at_level(logging.WARNING):
        again = factor_of(KeyStatistics(tmp_path), tiny_model())
    assert "is damaged" in caplog.text
    assert torch.equal(again, first)


def test_a_threshold_below_every_direction_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"threshold is 0.1, but the least used direction .* holds 0.5"):
        null_space(torch.eye(2), 0.1)


def test_how_large_a_matrix_is_on_ordinary_code(tmp_path: Path) -> None:
    """The mean squared length of what it gives, token by token."""
    model = tiny_model()
    module = feed_forward_output(model, 1).module
    given = []
    for text in TEXTS:
        with torch.no_grad(), captured({"m": module}, "output") as seen:
            model(input_ids=torch.tensor([text]))
        given.append(seen["m"][0].square().sum(1))
    store = KeyStatistics(tmp_path)
    sizes = {
        ridge: store.factors(model, fingerprint(model), [1], TEXTS, Derived("cholesky_factor", ridge))[1].size
        for ridge in (1e-9, 1.0)
    }
    assert sizes[1e-9] == pytest.approx(float(torch.cat(given).mean()), rel=1e-3)
    assert sizes[1.0] > 1.5 * sizes[1e-9]

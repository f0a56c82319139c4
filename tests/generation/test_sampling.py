from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from hotfix.errors import ConfigError, DataError, ModelError
from hotfix.generation import Completion, SamplingConfig, StopAfterLines, StopStrings, greedy, sample


def reference_greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    ids = torch.tensor([prompt])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length, pad_token_id=0
    )
    return made[0, len(prompt) :].tolist()


def teacher_forced(model: Any, prompt: list[int], new: list[int]) -> float:
    """Sum of the log-probabilities of ``new``, from one pass over the whole text without cache or padding."""
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + new])).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(new))


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[c.token_ids for c in made] for made in completions]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_greedy_equals_generate(model: Any, tokenizer: Any, prompts: list[list[int]], batch_size: int) -> None:
    made = greedy(model, tokenizer, prompts, 9, batch_size=batch_size)
    assert [c.token_ids for c in made] == [reference_greedy(model, prompt, 9) for prompt in prompts]
    assert not any(c.finished for c in made)


def test_greedy_samples_are_equal_but_not_the_same_list(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(num_samples=3, temperature=0, max_new_tokens=4)
    for made, single in zip(
        sample(llama, tokenizer, prompts, config, seed=0), greedy(llama, tokenizer, prompts, 4), strict=True
    ):
        assert made == [single] * 3
        made[0].token_ids.append(1)
        assert made[1] == single


@pytest.mark.parametrize("stop", [None, StopAfterLines()])
@pytest.mark.parametrize("eos", [None, 5])
def test_what_is_begun_is_gone_on_with(
    model: Any, prompts: list[list[int]], make_tokenizer: Any, stop: StopAfterLines | None, eos: int | None
) -> None:
    free = greedy(model, make_tokenizer(), prompts, 9)
    # The fifth token of the first completion ends it, where anything does.
    tokenizer = make_tokenizer(eos_token_id=None if eos is None else free[0].token_ids[4])
    whole = greedy(model, tokenizer, prompts, 9, stop=stop)
    for lengths in ([0, 1, 2, 3, 4], [9, 0, 5, 7, 9]):
        begun = [own.token_ids[:length] for own, length in zip(free, lengths, strict=True)]
        told: list[int] = []
        found = greedy(model, tokenizer, prompts, 9, stop=stop, batch_size=3, begun=begun, progress=told.append)
        assert [(c.token_ids, c.finished) for c in found] == [(c.token_ids, c.finished) for c in whole]
        assert sum(told) == len(prompts)


def test_what_is_whole_already_is_not_read(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    whole = greedy(llama, tokenizer, prompts, 9)
    passes: list[int] = []
    handle = llama.register_forward_pre_hook(lambda *_: passes.append(1))
    found = greedy(llama, tokenizer, prompts, 9, begun=[c.token_ids for c in whole])
    handle.remove()
    assert [c.token_ids for c in found] == [c.token_ids for c in whole]
    assert not passes


def test_samples_that_are_begun_have_the_same_numbers(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(num_samples=1, max_new_tokens=8)
    whole = ids_of(sample(llama, tokenizer, prompts, config, seed=5))
    begun = [own[0][: 2 * place] for place, own in enumerate(whole[:4])]
    assert ids_of(sample(llama, tokenizer, prompts[:4], config, seed=5, begun=begun)) == whole[:4]


def test_log_prob_is_the_teacher_forced_sum(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(num_samples=3, temperature=0.6, top_k=20, top_p=0.9, max_new_tokens=6, batch_size=7)
    for prompt, made in zip(prompts, sample(model, tokenizer, prompts, config, seed=3), strict=True):
        for completion in made:
            assert completion.log_prob == pytest.approx(teacher_forced(model, prompt, completion.token_ids), abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_same_seed_gives_the_same_whatever_the_batch(
    model: Any, tokenizer: Any, prompts: list[list[int]], batch_size: int
) -> None:
    made = [
        sample(model, tokenizer, prompts, SamplingConfig(num_samples=5, max_new_tokens=8, batch_size=b), seed=11)
        for b in (10, batch_size)
    ]
    assert ids_of(made[0]) == ids_of(made[1])
    assert len({tuple(ids) for group in ids_of(made[0]) for ids in group}) == 5 * len(prompts)


def test_seeds_differ(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(max_new_tokens=8)
    assert ids_of(sample(llama, tokenizer, prompts, config, seed=1)) != ids_of(
        sample(llama, tokenizer, prompts, config, seed=2)
    )


def test_prompt_indices_make_a_share_equal_to_the_whole(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(num_samples=2, max_new_tokens=8)
    whole = ids_of(sample(llama, tokenizer, prompts, config, seed=5))
    share = sample(llama, tokenizer, [prompts[3], prompts[1]], config, seed=5, prompt_indices=[3, 1])
    assert ids_of(share) == [whole[3], whole[1]]


def test_equal_prompts_are_read_once_and_sampled_apart(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    widths: list[tuple[int, ...]] = []
    handle = llama.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    made = sample(llama, tokenizer, [prompts[1]] * 3, SamplingConfig(num_samples=4, max_new_tokens=6), seed=0)
    handle.remove()
    assert widths == [(1, 11)] + [(12, 1)] * 5
    assert len({tuple(ids) for group in ids_of(made) for ids in group}) == 12


def test_end_of_sequence_ends_rows_without_disturbing_others(
    model: Any, tokenizer: Any, prompts: list[list[int]], make_tokenizer: Any
) -> None:
    config = SamplingConfig(num_samples=6, max_new_tokens=12, batch_size=30)
    whole = sample(model, tokenizer, prompts, config, seed=2)
    eos = whole[0][0].token_ids[4]
    ended = sample(model, make_tokenizer(eos_token_id=eos), prompts, config, seed=2)
    pairs = [(a, b) for x, y in zip(whole, ended, strict=True) for a, b in zip(x, y, strict=True)]
    for free, cut in pairs:
        finished = eos in free.token_ids
        assert cut.finished == finished
        assert cut.token_ids == (free.token_ids[: free.token_ids.index(eos)] if finished else free.token_ids)
    assert 1 < sum(cut.finished for _, cut in pairs) < len(pairs)


def test_end_of_sequence_of_the_generation_config(tokenizer: Any, prompts: list[list[int]], make_llama: Any) -> None:
    model = make_llama()
    free = greedy(model, tokenizer, prompts[:1], 6)[0].token_ids
    model.generation_config.eos_token_id = [free[3], 59]
    assert greedy(model, tokenizer, prompts[:1], 6)[0].token_ids == free[: free.index(free[3])]


def test_stop_keeps_the_token_that_met_it(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(num_samples=40, max_new_tokens=20)
    free = sample(llama, tokenizer, prompts, config, seed=4)
    stopped = sample(llama, tokenizer, prompts, config, seed=4, stop=StopAfterLines())
    num_finished = 0
    for a, b in ((a, b) for x, y in zip(free, stopped, strict=True) for a, b in zip(x, y, strict=True)):
        text = tokenizer.decode(a.token_ids, clean_up_tokenization_spaces=False)
        place = text.find("\n", len(text) - len(text.lstrip("\n")))
        assert b.finished == (place >= 0)
        assert b.token_ids == (a.token_ids[: place + 1] if place >= 0 else a.token_ids)
        num_finished += b.finished
    assert 5 < num_finished < 195


def test_text_is_decoded_only_at_trigger_tokens(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    config = SamplingConfig(num_samples=10, max_new_tokens=20)
    sample(llama, tokenizer, prompts, config, seed=4, stop=StopStrings(["no such text B"]))
    pairs = [ids for ids in tokenizer.decoded if len(ids) == 2 and ids[0] == ids[1]]
    assert len({ids[0] for ids in pairs}) <= 60
    assert all(ids[-1] == 2 for ids in tokenizer.decoded if ids not in pairs)
    assert len(tokenizer.decoded) > len(pairs)


def test_progress_sums_to_the_completions(llama: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    for temperature in (0.0, 1.0):
        ended: list[int] = []
        config = SamplingConfig(num_samples=3, temperature=temperature, max_new_tokens=3, batch_size=4)
        sample(llama, tokenizer, prompts, config, seed=0, progress=ended.append)
        assert sum(ended) == 15
        assert min(ended) > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_completion_is_told_of_when_it_ends(
    llama: Any, tokenizer: Any, prompts: list[list[int]], temperature: float
) -> None:
    told: list[tuple[int, list[int]]] = []
    config = SamplingConfig(3, max_new_tokens=5, temperature=temperature, batch_size=4)
    found = sample(
        llama, tokenizer, prompts, config, seed=0, ended=lambda place, made: told.append((place, list(made.token_ids)))
    )
    distinct = 3 if temperature else 1
    expected = [(place, made.token_ids) for place, own in enumerate(found) for made in own[:distinct]]
    assert sorted(told) == sorted(expected)


def test_modes_are_restored(tokenizer: Any, prompts: list[list[int]], make_llama: Any) -> None:
    model = make_llama().train()
    model.model.norm.eval()
    greedy(model, tokenizer, prompts, 2)
    assert model.training
    assert model.model.layers[0].training
    assert not model.model.norm.training


def test_dropout_is_off(tokenizer: Any, prompts: list[list[int]], make_llama: Any) -> None:
    model = make_llama()
    expected = greedy(model, tokenizer, prompts, 6)
    model.model.layers[0].mlp = nn.Sequential(model.model.layers[0].mlp, nn.Dropout(0.9))
    assert greedy(model.train(), tokenizer, prompts, 6) == expected


def test_long_prompts_lose_their_beginning(tokenizer: Any, caplog: pytest.LogCaptureFixture, make_llama: Any) -> None:
    model = make_llama(context=16)
    long = [list(range(i, i + 20)) for i in range(2)]
    with caplog.at_level(logging.WARNING):
        made = greedy(model, tokenizer, [*long, [5]], 6)
    assert [c.token_ids for c in made] == [reference_greedy(model, p, 6) for p in (long[0][-10:], long[1][-10:], [5])]
    assert len(caplog.records) == 1
    assert "2 of 3 prompts are longer than 10 tokens" in caplog.text


def test_errors(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        greedy(llama, tokenizer, [[1], []], 2)
    with pytest.raises(ConfigError, match=r"max_new_tokens is 64, which leaves no room .* context of 64 tokens"):
        greedy(llama, tokenizer, [[1]], 64)
    assert sample(llama, tokenizer, [], SamplingConfig(), seed=0) == []


def test_a_model_without_cache_is_refused(tokenizer: Any) -> None:
    config = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4, eos_token_id=None)
    with pytest.raises(ModelError, match="MambaForCausalLM returns no key-value cache"):
        greedy(MambaForCausalLM(config), tokenizer, [[1, 2]], 2)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_diverged_weights_are_refused(tokenizer: Any, temperature: float, make_llama: Any) -> None:
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises(ModelError, match="logits are not finite"):
        sample(model, tokenizer, [[1, 2]], SamplingConfig(temperature=temperature), seed=0)


@pytest.mark.real_model
def test_default_model_greedy_equals_generate() -> None:
    folder = Path("~/.cache/hotfix/models/smollm2-135m").expanduser()
    if not folder.is_dir():
        pytest.skip("the default model is not installed")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(text).input_ids for text in ("def add(a, b):\n", "import os\n\ndef size(path):\n    return")]
    made = greedy(model, tokenizer, prompts, 8, stop=StopAfterLines(9))
    assert [c.token_ids for c in made] == [reference_greedy(model, prompt, 8) for prompt in prompts]
    assert not any(c.finished for c in made)

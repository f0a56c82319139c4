from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, kstest

from hotfix.generation import SamplingConfig, sample
from hotfix.generation.drawing import draw_tokens, truncate, uniform_stream

SETTINGS = {
    "plain": SamplingConfig(),
    "temperature": SamplingConfig(temperature=0.5),
    "top_k": SamplingConfig(top_k=3),
    "top_p": SamplingConfig(top_p=0.7),
    "all": SamplingConfig(temperature=1.7, top_k=5, top_p=0.8),
}


def expected_distribution(logits: list[float], config: SamplingConfig) -> list[float]:
    """The truncated distribution in plain Python, token by token from the likeliest down."""
    weights = {token: math.exp((x - max(logits)) / config.temperature) for token, x in enumerate(logits)}
    order = sorted(weights, key=lambda token: -weights[token])[: config.top_k or None]
    total = sum(weights[token] for token in order)
    kept: dict[int, float] = {}
    for token in order:
        if sum(kept.values()) >= config.top_p * total:
            break
        kept[token] = weights[token]
    return [kept.get(token, 0.0) / sum(kept.values()) for token in range(len(logits))]


def pair_probabilities(model: Any, prompt: list[int], config: SamplingConfig) -> dict[tuple[int, int], float]:
    """Probability of every continuation of two tokens, one unpadded forward pass without cache for each first token."""

    def distribution(ids: list[int]) -> list[float]:
        with torch.no_grad():
            return expected_distribution(model(torch.tensor([ids])).logits[0, -1].double().tolist(), config)

    first = distribution(prompt)
    return {(a, b): first[a] * p for a in range(len(first)) for b, p in enumerate(distribution([*prompt, a]))}


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS.keys())
def test_samples_have_the_exact_distribution(config: SamplingConfig, make_llama: Any, make_tokenizer: Any) -> None:
    model, prompt, num_samples = make_llama(8, spread=0.25), [3, 1, 4], 8000
    options = {name: getattr(config, name) for name in ("temperature", "top_p", "top_k")}
    made = sample(
        model,
        make_tokenizer(),
        [[2], prompt],
        SamplingConfig(num_samples=num_samples, max_new_tokens=2, batch_size=9000, **options),
        seed=0,
    )[1]
    counts = dict.fromkeys(itertools.product(range(8), repeat=2), 0)
    for completion in made:
        counts[completion.token_ids[0], completion.token_ids[1]] += 1
    expected = pair_probabilities(model, prompt, config)
    assert all(expected[pair] > 0 for pair, count in counts.items() if count)
    common = [pair for pair in counts if expected[pair] * num_samples >= 5]
    observed = [counts[pair] for pair in common]
    frequencies = [expected[pair] * num_samples for pair in common]
    rest = num_samples - sum(frequencies)
    if rest > 1e-6 * num_samples:
        observed, frequencies = [*observed, num_samples - sum(observed)], [*frequencies, rest]
    assert len(common) > 5
    assert chisquare(observed, frequencies).pvalue > 0.001


@pytest.mark.parametrize("vocab_size", [12, 2000])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.3), (0, 0.99), (7, 0.6), (9999, 0.5)])
def test_truncation_matches_plain_python(vocab_size: int, top_k: int, top_p: float) -> None:
    logits = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = truncate(logits.softmax(-1), top_k, top_p)
    kept = kept / kept.sum(-1, keepdim=True)
    config = SamplingConfig(top_k=top_k, top_p=top_p)
    expected = torch.tensor([expected_distribution(row, config) for row in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(kept, expected)


def test_streams_are_uniform_and_do_not_repeat() -> None:
    numbers = torch.stack([uniform_stream(-7, p, s, 50) for p in range(20) for s in range(20)])
    assert len(numbers.unique()) == numbers.numel()
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    assert kstest(numbers[:, 0].numpy(), "uniform").pvalue > 0.01
    assert uniform_stream(1, 0, 0, 3).tolist() != uniform_stream(2, 0, 0, 3).tolist()


def test_masked_vocabulary_is_never_drawn() -> None:
    logits = torch.full((200, 6), -torch.inf)
    logits[:, [1, 4]] = torch.tensor([0.0, 1.0])
    drawn = draw_tokens(logits, torch.linspace(0, 1, 200, dtype=torch.float64), SamplingConfig())
    assert set(drawn.token_ids.tolist()) == {1, 4}
    assert drawn.log_probs.min().item() == pytest.approx(math.log(1 / (1 + math.e)))

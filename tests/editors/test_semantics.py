"""The head's geometry from one Cholesky factor is the pseudo-inverse's; the prior is the solution of smallest norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

from hotfix.editors.repair.prior import contradictions, minimum_norm, signed_step
from hotfix.editors.repair.semantics import final_norm, norm_gain, robustly_scaled, semantics
from hotfix.models.tiny import tiny_model


def test_bases_are_the_rows_of_the_pseudo_inverse() -> None:
    model = tiny_model()
    head = model.lm_head.weight.detach().double()
    bases = torch.linalg.pinv(head.T)  # [V, D]
    wanted, other = torch.tensor([3, 100, 256]), torch.tensor([7, 0, 41])
    found = semantics(model, fold_gain=False)
    steers = found.steers(found.contrasts(wanted, other))
    expected = bases[wanted] - bases[other]
    assert (steers - expected).norm() / expected.norm() < 1e-5


def test_a_steer_always_helps_its_token_against_the_other() -> None:
    model = tiny_model()
    nn.init.uniform_(model.model.norm.weight, 0.5, 2.0)
    found = semantics(model)
    wanted = torch.arange(100)
    contrasts = found.contrasts(wanted, wanted + 100)
    assert ((contrasts * found.steers(contrasts)).sum(dim=1) > 0).all()
    # The gain is in it: along the steer the logits behind the norm's gain rise, whatever the norm divides by.
    steer = found.steers(contrasts)[0].float() * model.model.norm.weight
    logits = model.lm_head(steer)
    assert logits[0] > logits[100]
    raw = semantics(model, fold_gain=False)
    assert not torch.allclose(raw.steers(raw.contrasts(wanted, wanted + 100)), found.steers(contrasts), rtol=0.1)


def test_a_token_has_no_steer_against_its_double() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[5] = model.lm_head.weight[6]
    found = semantics(model)
    steers = robustly_scaled(found.steers(found.contrasts(torch.tensor([5]), torch.tensor([6]))))
    assert torch.equal(steers, torch.zeros_like(steers))


def test_scaled_by_the_distance_of_the_quartiles() -> None:
    steers = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    scaled = robustly_scaled(steers)
    quartiles = scaled.quantile(torch.tensor([0.25, 0.75]), dim=1)
    torch.testing.assert_close(quartiles[1] - quartiles[0], torch.ones(3))
    torch.testing.assert_close(scaled / scaled[:, :1], steers / steers[:, :1])


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60}


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_the_final_norm_and_its_gain_are_measured(kind: str) -> None:
    if kind == "llama":
        model, norm, one = tiny_model(), "norm", 0.0
    elif kind == "gemma":
        model = GemmaForCausalLM(GemmaConfig(**SIZES, intermediate_size=48, head_dim=16, num_key_value_heads=1))
        norm, one = "norm", 1.0
    else:
        model, norm, one = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=60)), "ln_f", 0.0
    found = final_norm(model)
    assert found is getattr(model.get_decoder(), norm)
    nn.init.uniform_(found.weight, 0.5, 2.0)
    gain, centred = norm_gain(found, 32, torch.device("cpu"))
    torch.testing.assert_close(gain, found.weight.detach() + one, rtol=1e-4, atol=1e-4)
    assert centred == (kind == "gpt2")


def keys_and_steers() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 20, generator=generator), torch.randn(5, 8, generator=generator)


def test_the_prior_is_the_least_squares_solution_of_smallest_norm() -> None:
    keys, steers = keys_and_steers()
    found = minimum_norm(keys, steers, ridge=1e-12).dense().T
    expected = torch.linalg.lstsq(keys.double(), steers.double(), driver="gelsd").solution
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(keys @ found, steers, rtol=1e-5, atol=1e-5)
    # Any other exact solution is larger.
    null = torch.linalg.svd(keys).Vh[5:]
    other = found + null.T @ torch.randn(15, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(keys @ other, steers, rtol=1e-4, atol=1e-4)
    assert other.norm() > found.norm()


def test_one_key_gives_rank_one() -> None:
    keys, steers = keys_and_steers()
    expected = steers[:1].T @ keys[:1] / keys[0].square().sum()
    torch.testing.assert_close(minimum_norm(keys[:1], steers[:1]).dense(), expected, rtol=1e-5, atol=1e-6)


def test_repeated_keys_have_a_solution_and_opposite_steers_contradict() -> None:
    keys, steers = keys_and_steers()
    keys = torch.cat([keys, keys[:1], keys[1:2]])
    agreeing = torch.cat([steers, steers[:2]])
    prior = minimum_norm(keys, agreeing)
    assert contradictions(prior, keys, agreeing) == {}
    torch.testing.assert_close(keys @ prior.dense().T, agreeing, rtol=1e-3, atol=1e-3)
    opposed = torch.cat([steers, -steers[:1], steers[1:2]])
    assert contradictions(minimum_norm(keys, opposed), keys, opposed) == {0: 5, 5: 0}


def test_no_steer_no_change_at_that_key() -> None:
    keys, steers = keys_and_steers()
    steers[2] = 0
    change = minimum_norm(keys, steers).dense()
    assert (change @ keys[2]).abs().max() < 1e-4
    assert (change @ keys[1]).abs().max() > 0.1


def test_a_signed_step_has_the_prior_s_sizes_and_goes_down() -> None:
    generator = torch.Generator().manual_seed(0)
    prior, gradient = torch.randn(6, 9, generator=generator), torch.randn(6, 9, generator=generator)
    gradient[2] = 0
    step = signed_step(prior, gradient)
    assert torch.equal(step.abs(), torch.where(gradient != 0, prior.abs(), 0.0))
    assert (step * gradient).sum() < 0

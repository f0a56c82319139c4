"""Prompt formats against token ids put together by hand; what the sides share and where they differ stays right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from tokenizers import processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from hotfix.data import Chat, CodePair, FillInTheMiddle, Plain, PromptFormat
from hotfix.data.encode import EncodedPair, PairEncoder, statement_ids
from hotfix.data.packing import pack
from hotfix.data.prompts import FAMILIES, fim_family, middle_end_ids
from hotfix.errors import ConfigError, DataError, ModelError
from hotfix.generation.sampling import _eos_ids
from hotfix.losses import NLL, ModelPasses
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.tasks.scoring import pair_log_probs

Tok = PreTrainedTokenizerBase
STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAIR = CodePair("p", "def f(a):\n    return ", "md5(a)", "sha256(a)", "\n\nf(1)\n")


def with_tokens(*marks: str, bos: bool = False) -> Tok:
    tok = tiny_tokenizer()
    tok.add_special_tokens({"additional_special_tokens": list(marks)})
    if bos:
        core = tok.backend_tokenizer
        core.post_processor = processors.TemplateProcessing(
            single="<|end|> $A", special_tokens=[("<|end|>", tok.bos_token_id)]
        )
    return tok


def chat_tokenizer(bos: bool = False) -> Tok:
    tok = with_tokens("<|im_start|>", "<|im_end|>", bos=bos)
    tok.chat_template = ("<|end|>" if bos else "") + CHATML
    return tok


def ids_of(tok: Tok, parts: Sequence[str]) -> list[int]:
    """Special tokens by their number, other text byte by byte: what the tokenizer has to come to."""
    marks = tok.get_added_vocab()
    found: list[int] = []
    for part in parts:
        found += [marks[part]] if part in marks else tok(part, add_special_tokens=False)["input_ids"]
    return found


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("order", ["psm", "spm"])
def test_fill_in_the_middle_by_hand(order: str, bos: bool) -> None:
    tok = with_tokens(*STARCODER, bos=bos)
    pre, suf, mid = STARCODER
    prompts = {"psm": [pre, PAIR.prefix, suf, PAIR.suffix, mid], "spm": [pre, suf, PAIR.suffix, mid, PAIR.prefix]}
    done = PairEncoder(tok, prompt=FillInTheMiddle(order))(PAIR)  # type: ignore[arg-type]
    assert done.shared[: done.prompt] == ids_of(tok, ["<|end|>"] * bos + prompts[order])
    assert done.residue == ""
    for side, statement in (("fixed", PAIR.fixed), ("buggy", PAIR.buggy)):
        branch = getattr(done, side)
        assert done.shared[done.prompt :] + branch.ids == ids_of(tok, [statement, "<|end|>"])
        assert list(statement_ids(done, side)) == ids_of(tok, [statement])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_found_and_filled_in(family: object) -> None:
    chosen = next(f for f in FAMILIES if f is family)
    tok = with_tokens(*chosen.marks)
    assert fim_family(tok) is chosen
    for order, template in (("psm", chosen.psm), ("spm", chosen.spm)):
        encode = PairEncoder(tok, prompt=FillInTheMiddle(order))  # type: ignore[arg-type]
        if template is None:
            with pytest.raises(ConfigError, match=f"order is {order}, but .* was trained on .* only"):
                encode(PAIR)
            continue
        done = encode(PAIR)
        text = template.replace("{prefix}", PAIR.prefix).replace("{suffix}", PAIR.suffix)
        assert tok.decode(done.shared[: done.prompt], clean_up_tokenization_spaces=False) == text
        marks = [i for i in done.shared if i in tok.get_added_vocab().values()]
        assert len(marks) == sum(text.count(mark) for mark in tok.get_added_vocab())
        assert done.fixed.ids[-1] == (tok.convert_tokens_to_ids(chosen.end) if chosen.end else tok.eos_token_id)
        assert done.buggy.ids[-1] == done.fixed.ids[-1]


def test_the_families_tokens_tell_them_apart() -> None:
    for one in FAMILIES:
        assert len(one.marks) >= 2
        assert not [other.name for other in FAMILIES if other is not one and set(other.marks) <= set(one.marks)]


def test_the_end_of_a_gap_ends_a_completion() -> None:
    tok = with_tokens("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
    assert middle_end_ids(tok) == {tok.convert_tokens_to_ids("▁<EOT>")}
    assert _eos_ids(tiny_model(), tok) == {tok.eos_token_id, tok.convert_tokens_to_ids("▁<EOT>")}
    assert middle_end_ids(with_tokens(*STARCODER)) == middle_end_ids(tiny_tokenizer()) == frozenset()


def test_suffix_lines() -> None:
    tok = with_tokens(*STARCODER)
    pair = replace(PAIR, suffix="\na\nb\nc")
    for lines, shown in ((None, "\na\nb\nc"), (2, "\na\n"), (0, "")):
        done = PairEncoder(tok, prompt=FillInTheMiddle(suffix_lines=lines))(pair)
        pre, suf, mid = STARCODER
        assert done.shared[: done.prompt] == ids_of(tok, [pre, pair.prefix, suf, shown, mid])
    with pytest.raises(ConfigError, match="suffix_lines is -1, expected at least 0"):
        FillInTheMiddle(suffix_lines=-1)


@pytest.mark.parametrize("bos", [False, True])
def test_chat_by_hand(bos: bool) -> None:
    tok = chat_tokenizer(bos)
    done = PairEncoder(tok, prompt=Chat("Go on:\n{prefix}|{suffix}", opening="```\n", system="S"))(PAIR)
    start, end = "<|im_start|>", "<|im_end|>"
    said = ["system\nS", f"user\nGo on:\n{PAIR.prefix}|{PAIR.suffix}"]
    parts = [part for turn in said for part in (start, turn, end, "\n")]
    expected = ["<|end|>"] * bos + [*parts, start, f"assistant\n```\n{PAIR.prefix}"]
    assert done.shared[: done.prompt] == ids_of(tok, expected)
    assert done.shared[done.prompt :] + done.fixed.ids == ids_of(tok, [PAIR.fixed, PAIR.suffix[:2]])


def test_chat_fills_fields_in_once() -> None:
    tok = chat_tokenizer()
    pair = replace(PAIR, prefix="f'{suffix} {prefix}' + ")
    frame = Chat("{prefix}").frame(pair, tok)
    assert frame.head.count("{suffix} {prefix}") == 1
    assert PAIR.suffix not in frame.head


def formats(tok: Tok) -> list[PromptFormat]:
    tok.chat_template = CHATML
    return [Plain(), FillInTheMiddle("psm"), FillInTheMiddle("spm"), Chat()]


def test_what_is_edited_does_not_depend_on_the_format(make_pairs: Callable[..., list[CodePair]]) -> None:
    tok = with_tokens(*STARCODER, "<|im_start|>", "<|im_end|>")
    plain, *others = formats(tok)
    # Where one statement begins the other, the sides part in what follows them, and that does depend on the format.
    apart = [p for p in make_pairs(80, 11) if not (p.fixed.startswith(p.buggy) or p.buggy.startswith(p.fixed))]
    assert len(apart) > 40
    for pair in apart:
        expected = PairEncoder(tok, prompt=plain)(pair)
        for prompt in others:
            done = PairEncoder(tok, prompt=prompt)(pair)
            for side in ("fixed", "buggy"):
                one, other = getattr(done, side), getattr(expected, side)
                assert one.ids[: one.statement] == other.ids[: other.statement]
                assert one.edited[: len(other.ids) - 2] == other.edited[: len(other.ids) - 2], (pair, prompt)
            assert done.shared[done.prompt :] == expected.shared[expected.prompt :]


def grown(tok: Tok) -> LlamaForCausalLM:
    model = tiny_model()
    model.resize_token_embeddings(len(tok))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def by_rows(model: LlamaForCausalLM, done: EncodedPair, side: str) -> torch.Tensor:
    """Log-probabilities of a side's tokens behind the first, each side in a row of its own."""
    ids = torch.tensor([done.shared + getattr(done, side).ids])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(1, ids[0, 1:, None])[:, 0]


def test_packed_rows_are_the_same_as_rows_of_their_own() -> None:
    tok = with_tokens(*STARCODER, "<|im_start|>", "<|im_end|>")
    model = grown(tok)
    pairs = [PAIR, CodePair("q", "r = get(u", ", verify=False)", ")", "\nr.read()\n")]
    for prompt in formats(tok):
        encoded = [PairEncoder(tok, prompt=prompt)(pair) for pair in pairs]
        for score, done in zip(pair_log_probs(model, encoded), encoded, strict=True):
            for side, found in (("fixed", score.fixed), ("buggy", score.buggy)):
                start = done.prompt - 1
                stop = len(done.shared) - 1 + getattr(done, side).statement
                assert found == pytest.approx(by_rows(model, done, side)[start:stop].sum().item(), abs=1e-4)
        for layout in ("packed", "padded"):
            passes = ModelPasses(model, pack(encoded, layout=layout), None)  # type: ignore[arg-type]
            edited = [
                by_rows(model, done, "fixed")[len(done.shared) - 1 :][torch.tensor(done.fixed.edited)]
                for done in encoded
            ]
            assert NLL("fixed", "edited")(passes).item() == pytest.approx(-torch.cat(edited).mean().item(), abs=1e-5)


@pytest.mark.parametrize("length", range(30, 140, 7))
def test_only_the_code_in_front_is_cut(length: int) -> None:
    tok = with_tokens(*STARCODER, "<|im_start|>", "<|im_end|>")
    pair = replace(PAIR, prefix="a = 1\n" * 20 + PAIR.prefix)
    for prompt in formats(tok)[1:3]:
        whole = PairEncoder(tok, 10_000, prompt=prompt)(pair)
        done = PairEncoder(tok, length, overlong="left", prompt=prompt)(pair)
        text = tok.decode(done.shared[: done.prompt], clean_up_tokenization_spaces=False)
        kept = text.replace(PAIR.suffix, "")
        for mark in STARCODER:
            assert kept.count(mark) == 1
            kept = kept.replace(mark, "")
        assert pair.prefix.endswith(kept)
        assert done.fixed == whole.fixed
        total = len(done.shared) + len(done.fixed.ids)
        assert length - 3 <= total <= length or kept == pair.prefix


def test_an_instruction_is_never_cut() -> None:
    tok = chat_tokenizer()
    pair = replace(PAIR, prefix="a = 1\n" * 50 + PAIR.prefix)
    done = PairEncoder(tok, 200, overlong="left", prompt=Chat("Do:\n{prefix}"))(pair)
    text = tok.decode(done.shared, clean_up_tokenization_spaces=False)
    assert text.startswith("<|im_start|>user\nDo:\n")
    assert 190 < len(done.shared) + len(done.fixed.ids) <= 200
    asked, answered = text.partition("Do:\n")[2].split("<|im_end|>\n<|im_start|>assistant\n```\n")
    assert answered == asked
    assert pair.prefix.endswith(asked)


@pytest.mark.parametrize("overlong", ["error", "left"])
def test_what_cannot_be_cut_is_refused(overlong: str) -> None:
    tok = with_tokens(*STARCODER)
    limit = 30 if overlong == "error" else 10
    with pytest.raises(DataError, match=r"pair 'p' has \d+ tokens .* longer than the context of"):
        PairEncoder(tok, limit, overlong=overlong, prompt=FillInTheMiddle())(PAIR)  # type: ignore[arg-type]


def test_a_tokenizer_without_the_tokens_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"has no special tokens to fill in the middle with; known are .*StarCoder2"):
        PairEncoder(tiny_tokenizer(), prompt=FillInTheMiddle())(PAIR)
    with pytest.raises(ModelError, match=r"has no chat template; leave data\.init_args\.prompt out"):
        PairEncoder(tiny_tokenizer(), prompt=Chat())(PAIR)


def test_a_template_that_takes_no_system_is_told_so() -> None:
    tok = chat_tokenizer()
    tok.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(ModelError, match=r"refuses the conversation \(no system\); leave out"):
        PairEncoder(tok, prompt=Chat(system="S"))(PAIR)


@pytest.mark.parametrize("column", ["prefix", "buggy", "fixed", "suffix"])
def test_code_with_the_format_s_own_tokens_is_refused(column: str) -> None:
    pair = replace(PAIR, source="f.jsonl:3", **{column: "x <fim_middle> y <|im_end|>"})
    tok = with_tokens(*STARCODER, "<|im_start|>", "<|im_end|>", "<filename>")
    tok.chat_template = CHATML
    with pytest.raises(DataError, match=r"f\.jsonl:3: pair 'p' holds '<fim_middle>', which is a special token"):
        PairEncoder(tok, prompt=FillInTheMiddle())(pair)
    with pytest.raises(DataError, match=r"pair 'p' holds '<\|im_end\|>', which is a special token"):
        PairEncoder(tok, prompt=Chat())(pair)
    # A token that the template doesn't use does no harm.
    PairEncoder(tok, prompt=Chat())(replace(PAIR, prefix="usage = '<filename>' + "))

"""A teacher with another tokenizer: what it says of a text is what plain transformers says of it, in float64."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import ModelServers
from tiny import make_model
from tiny_tokenizers import byte_level, sentencepiece, unigram, word_piece
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.advantages import AdvantageArgs, rollout_advantages
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.teachers.answer_alignment import CHANGED, ENDLESS, INVALID, SPECIAL, AnswerAligner
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts

QUESTION = Prompt(id="q", messages=({"role": "user", "content": "the sum of 1 and 2?"},))
TEXTS = ["the answer is 12.\n\nSo  ", "你好 🙂🧑\u200d🚀 b", "مرحبا é\u0301 ", " \t<eos> <end>x", "a"]


@pytest.fixture(scope="module")
def dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    kinds = {
        "student": byte_level(),
        "gemma": sentencepiece(),
        "llama": sentencepiece(prepends=True),
        "finer": byte_level(265),
    }
    return {
        name: str(make_model(root / name, seed=i, tokenizer=tokenizer))
        for i, (name, tokenizer) in enumerate(kinds.items())
    }


@pytest.fixture(scope="module")
def student(dirs) -> Policy:
    return Policy.load(PolicyArgs(path=dirs["student"]), trainable=True)


def pool_of(student: Policy, path: str, **options: Any) -> TeacherPool:
    settings: dict[str, Any] = {"cross_tokenizer": True} | options
    pool = TeacherPool({"default": TeacherArgs(path=path, **settings)})
    pool.load(student)
    return pool


def answers(student: Policy, texts: list[str], *, ended: bool = True, end: str = "<end>") -> Rollouts:
    """Rollouts of these texts in the student's own tokens."""
    rollouts = write_answers(student, [QUESTION], SamplingArgs(n=len(texts), max_new_tokens=2), seed=0)
    last = [student.tokenizer.convert_tokens_to_ids(end)] * ended
    rows = [student.tokenizer(t, split_special_tokens=True).input_ids + last for t in texts]
    return with_tokens(student, rollouts, rows, ended=ended)


def with_tokens(student: Policy, rollouts: Rollouts, rows: list[list[int]], *, ended: bool) -> Rollouts:
    tokens_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask_BT = torch.arange(tokens_BT.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    with torch.no_grad():
        logps_BT, _ = student.token_logps(rollouts.prompt_tokens, tokens_BT, mask_BT)
    zeros_BT = torch.zeros_like(logps_BT)
    return replace(
        rollouts,
        tokens_BT=tokens_BT,
        mask_BT=mask_BT,
        scored_BT=mask_BT,
        student_logps_BT=logps_BT.detach(),
        sampler_logps_BT=logps_BT.detach(),
        teacher_logps_BT=zeros_BT,
        advantages_BT=zeros_BT,
        clipped_BT=torch.zeros_like(mask_BT),
        finish=["stop" if ended else "length"] * len(rows),
    )


def score(pool: TeacherPool, rollouts: Rollouts) -> torch.Tensor:
    rollouts.teacher_logps_BT, rollouts.teacher_ok_B = pool.score(rollouts, temperature=1.0, max_tokens=500)
    return rollouts.teacher_logps_BT


@torch.no_grad()
def exact_sum(path: str, text: str, *, ended: bool) -> float:
    """The log-prob of a text, and of the end of the turn, by transformers alone in float64."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    start = tokenizer.apply_chat_template(list(QUESTION.messages), tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(start, add_special_tokens=False).input_ids
    # A special token in the text is none, as in the text of a chat.
    words = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    answer = words + [tokenizer.convert_tokens_to_ids("<end>")] * ended
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())


PIECES = st.sampled_from(
    ["the", " answer", "\n", "  ", "12", "你好", "🙂", "🧑\u200d🚀", "مرحبا", "é", "\u0301", "x", "ß", "."]
)


@pytest.mark.parametrize("name", ["gemma", "llama", "finer"])
def test_log_probs_of_a_text_add_up_to_the_teachers_own(dirs, student, name):
    pool = pool_of(student, dirs[name])

    @given(
        st.lists(PIECES, min_size=1, max_size=8).map("".join)
        | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
        st.booleans(),
    )
    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    def adds_up(text: str, ended: bool) -> None:
        if name != "finer":
            text = text.replace("\u2581", "-")  # which SentencePiece takes for a space
        rollouts = answers(student, [text], ended=ended)
        logps_BT = score(pool, rollouts)
        assert rollouts.teacher_ok_B.all()
        assert torch.equal(rollouts.scored_BT, rollouts.mask_BT)
        assert float(logps_BT.double().sum()) == pytest.approx(
            exact_sum(dirs[name], text, ended=ended), rel=1e-5, abs=1e-4
        )

    adds_up()


def test_chunks_hold_what_the_teacher_says_of_them(dirs, student):
    """Advantages of a chunk add up to its gap, and no token pulls against its chunk."""
    rollouts = answers(student, TEXTS[:3])
    pool = pool_of(student, dirs["gemma"])
    score(pool, rollouts)
    advantages_BT = rollout_advantages(rollouts, AdvantageArgs(), reference_logps_BT=None, seed=0)
    aligner = pool.aligners["default"]
    for row in range(len(rollouts)):
        tokens = rollouts.tokens_BT[row, rollouts.mask_BT[row]].tolist()
        chunks = aligner(QUESTION, tokens, ended=True).student_chunks_T
        for chunk in chunks.unique():
            inside = advantages_BT[row, : len(chunks)][chunks == chunk]
            assert (inside.sign() * inside.sum().sign() >= 0).all()
    total = rollouts.teacher_logps_BT.sum() - rollouts.student_logps_BT.sum()
    torch.testing.assert_close(advantages_BT.sum(), total, rtol=1e-5, atol=1e-4)
    assert aligner.counts["tokens"] == int(rollouts.mask_BT.sum())
    assert 0 < aligner.counts["one_to_one"] < aligner.counts["tokens"]


def test_equal_tokenizers_are_the_plain_path_bit_for_bit(dirs, student):
    rollouts = write_answers(student, [QUESTION], SamplingArgs(n=6, max_new_tokens=12), seed=3)
    teacher = str(make_model(Path(dirs["student"]).parent / "equal", seed=9, tokenizer=byte_level()))
    plain_BT = score(pool_of(student, teacher, cross_tokenizer=False), rollouts)
    assert torch.equal(score(pool_of(student, teacher), rollouts), plain_BT)
    itself_BT = score(pool_of(student, dirs["student"], cross_tokenizer=False), rollouts)
    assert torch.equal(score(pool_of(student, dirs["student"]), rollouts), itself_BT)
    torch.testing.assert_close(itself_BT, rollouts.student_logps_BT, atol=2e-5, rtol=1e-5)


def test_equal_tokens_that_are_written_again_are_the_plain_path_too(dirs, student, monkeypatch):
    """The whole way through texts and bytes, with answers that the tokenizer would have written so."""
    rollouts = answers(student, TEXTS[:3])
    plain_BT = score(pool_of(student, dirs["student"], cross_tokenizer=False), rollouts)
    pool = pool_of(student, dirs["student"])
    monkeypatch.setattr(pool.aligners["default"], "same_tokens", False)
    assert torch.equal(score(pool, rollouts), plain_BT)
    assert pool.aligners["default"].counts["one_to_one"] == int(rollouts.mask_BT.sum())


def aligner(student: Policy, processor: Any) -> AnswerAligner:
    return AnswerAligner(student.tokenizer, processor, {})


def test_what_cannot_be_aligned_is_counted_by_its_reason(student):
    ids = student.tokenizer("the sum 🙂").input_ids
    special = student.tokenizer.convert_tokens_to_ids("<bos>")
    align = aligner(student, sentencepiece())
    emoji = [i for i, piece in enumerate(align._student(ids)) if piece and max(piece) > 127]
    assert len(emoji) > 1
    cut = align(QUESTION, ids[:-1], ended=False)  # within a character
    assert cut.unaligned == Counter({INVALID: len(emoji) - 1})
    assert (cut.student_chunks_T[: emoji[0]] >= 0).all()
    written = align(QUESTION, [*ids, special, *ids], ended=False)
    assert written.unaligned == Counter({SPECIAL: 1})
    assert written.student_chunks_T[len(ids)] == -1
    broken = align(QUESTION, [*ids, ids[emoji[-1]], *ids], ended=False)  # a byte that continues nothing
    assert broken.unaligned == Counter({INVALID: 1})
    unknown = aligner(student, unigram())(QUESTION, [*student.tokenizer("the 🙂 answer").input_ids, 3], ended=True)
    assert unknown.unaligned == Counter({CHANGED: len(emoji)})
    chunks = unknown.student_chunks_T.tolist()
    assert [chunk >= 0 for chunk in chunks] == [True, True, *[False] * len(emoji), True, True]
    endless: Any = sentencepiece()
    endless.chat_template, endless.eos_token = None, None
    without = aligner(student, endless)(QUESTION, [*ids, 3], ended=True)
    assert without.unaligned == Counter({ENDLESS: 1})


def test_unaligned_tokens_train_nothing_and_are_told_of_once(dirs, student, caplog):
    special = student.tokenizer.convert_tokens_to_ids("<bos>")
    ids = student.tokenizer("the answer").input_ids
    rollouts = with_tokens(student, answers(student, ["a", "b"]), [[*ids, special, *ids], [special]], ended=False)
    pool = pool_of(student, dirs["gemma"])
    with caplog.at_level(logging.WARNING):
        score(pool, rollouts)
        score(pool, rollouts)
    assert caplog.text.count(f"cannot score 2 of {len(ids) * 2 + 2} tokens, which train nothing: {SPECIAL}") == 1
    assert rollouts.teacher_ok_B.tolist() == [True, False]
    assert dict(pool.failures) == {"default, no text that its tokenizer writes alike": 1}
    unscored_BT = rollouts.mask_BT & ~rollouts.scored_BT
    assert unscored_BT[0].nonzero().tolist() == [[len(ids)]]
    options = AdvantageArgs(reference_weight=1.0)
    advantages_BT = rollout_advantages(rollouts, options, reference_logps_BT=rollouts.student_logps_BT - 1, seed=0)
    assert not advantages_BT[unscored_BT].any()
    assert advantages_BT[0, : len(ids)].all()


@pytest.mark.parametrize("placement", ["cpu_offload", "disk_cache", "http"])
@pytest.mark.thinned(2)
def test_wherever_it_lives(dirs, student, tmp_path, placement):
    rollouts = answers(student, TEXTS)
    expected_BT = score(pool_of(student, dirs["gemma"]), rollouts).clone()
    if placement != "http":
        cache = {"cache": str(tmp_path)} if placement == "disk_cache" else {}
        pool = pool_of(student, dirs["gemma"], placement=placement, **cache)
        for _ in range(2):
            torch.testing.assert_close(score(pool, rollouts), expected_BT, atol=1e-5, rtol=1e-5)
        assert pool.cache_counts() in (None, (len(TEXTS), 0))
        return
    servers = ModelServers([("gemma", dirs["gemma"])])
    try:
        for protocol in ("vllm", "sglang"):
            http = HttpArgs(urls=servers.all, protocol=protocol, model="gemma")
            pool = pool_of(student, dirs["gemma"], placement="http", http=http)
            torch.testing.assert_close(score(pool, rollouts), expected_BT, atol=1e-5, rtol=1e-5)
        servers.misbehave(servers.all[0], "nan")
        score(pool, rollouts)
        assert not rollouts.teacher_ok_B.any()
        assert dict(pool.failures) == {"default, log-probs that are not finite": len(TEXTS)}
    finally:
        servers.close()


def test_refusals(dirs, student, tmp_path):
    args = TeacherArgs(path=dirs["gemma"], cross_tokenizer=True)
    with pytest.raises(UserError, match=r"let --model\.teachers\.default\.cross_tokenizer align their texts"):
        pool_of(student, dirs["gemma"], cross_tokenizer=False)
    with pytest.raises(UserError, match=r"--model\.loss\.kind jsd compares .* set --model\.loss\.kind sampled"):
        TeacherPool({"default": args}).refuse(1.0, "jsd")
    with pytest.raises(UserError, match=r"--model\.advantage\.baseline kl .* set baseline none"):
        TeacherPool({"default": args}).refuse(1.0, "sampled", baseline="kl")
    mixed = {"a": args, "b": replace(args, cross_tokenizer=False), "default": TeacherArgs(mixture={"a": 1.0, "b": 1.0})}
    with pytest.raises(UserError, match=r"--model\.teachers\.default\.mixture mixes .* --model\.teachers\.a\.cross"):
        TeacherPool(mixed).refuse(1.0, "sampled")
    with pytest.raises(UserError, match=r"cross_tokenizer needs the teacher's own tokenizer"):
        TeacherPool({"default": TeacherArgs(placement="http", http=HttpArgs(urls=["x"]), cross_tokenizer=True)})
    with pytest.raises(UserError, match=r"weights student is the student itself.*cross_tokenizer has no meaning"):
        TeacherPool({"default": TeacherArgs(weights="student", cross_tokenizer=True)})
    other = make_model(tmp_path / "bert", tokenizer=word_piece())
    with pytest.raises(UserError, match="do not say where spaces are"):
        pool_of(student, str(other))

"""SmolLM2 taught by Gemma 3, whose tokens are others: byte-level BPE here, SentencePiece with 262,144 pieces there."""

import pytest
import torch
from real_model import Plain
from teachers.test_cross_tokenizer import answers, score

from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool

pytestmark = pytest.mark.slow

TEXTS = [
    "Paris is the capital,\n\nisn't it? 3.14159 ",
    "你好，世界！日本語 🙂🧑‍🚀",
    "مرحبا بالعالم <eos> e\u0301\t\r\n  def f(x):",
    "7",
]


def test_log_probs_of_texts_are_gemmas_own(gemma, model_path):
    student = Policy.load(PolicyArgs(path=model_path), trainable=False)
    pool = TeacherPool({"default": TeacherArgs(path=gemma, cross_tokenizer=True)})
    pool.load(student)
    rollouts = answers(student, TEXTS, end="<|im_end|>")
    logps_BT = score(pool, rollouts)
    assert torch.equal(rollouts.scored_BT, rollouts.mask_BT)
    counts = pool.aligners["default"].counts
    assert 0.3 < counts["one_to_one"] / counts["tokens"] < 0.8  # other alphabets are bytes to SmolLM2
    plain = Plain(gemma)
    prompt = plain.tokenizer(rollouts.prompts[0].messages[0]["content"]).input_ids
    for text, logps_T in zip(TEXTS, logps_BT, strict=True):
        words = [plain.tokenizer(piece, add_special_tokens=False).input_ids for piece in text.partition("<eos>")]
        if words[1]:  # written by the student, it is text and ends nothing
            words[1] = plain.tokenizer.convert_tokens_to_ids(["<", "eos", ">"])
            words[0], words[1] = words[0][:-1], [plain.tokenizer.convert_tokens_to_ids("▁<"), *words[1][1:]]
        answer = [*words[0], *words[1], *words[2], plain.tokenizer.eos_token_id]
        with torch.no_grad():
            expected = float(plain.logps(plain.exact, prompt, answer).sum())
        assert float(logps_T.double().sum()) == pytest.approx(expected, rel=1e-4)

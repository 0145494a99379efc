import pytest
import torch
from tiny import Prompts, adam, prompts, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.types import Prompt


def loaded(path: str, tmp_path, **options) -> SFT:
    module = SFT(PolicyArgs(path=path), optimizer=adam, **options)
    module.trainer = trainer(tmp_path)
    module.configure_model()
    return module


def test_the_loss_is_that_of_transformers_on_the_answer_tokens(model_dirs, tmp_path):
    batch = prompts(5)
    loss, cut = loaded(model_dirs["student"], tmp_path).answer_loss(tuple(batch))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model_dirs["student"]),
        AutoTokenizer.from_pretrained(model_dirs["student"]),
    )
    total, count = 0.0, 0
    for prompt in batch:  # one row at a time, labels -100 on the prompt
        start = tokenizer.apply_chat_template(
            [dict(m) for m in prompt.messages], add_generation_prompt=True, tokenize=False
        )
        start, answer = (tokenizer(text, add_special_tokens=False).input_ids for text in (start, f"{prompt.gold}<eos>"))
        ids = torch.tensor([start + answer])
        labels = torch.tensor([[-100] * len(start) + answer])
        total += model(input_ids=ids, labels=labels).loss.item() * len(answer)
        count += len(answer)
    assert loss.item() == pytest.approx(total / count, abs=1e-4)
    assert cut == 0


def test_long_answers_are_cut_and_counted(model_dirs, tmp_path):
    long = Prompt(id="long", messages=prompts(1)[0].messages, gold="1" * 50)
    _, cut = loaded(model_dirs["student"], tmp_path, max_answer_tokens=10).answer_loss((prompts(1)[0], long))
    assert cut == 0.5


def test_training_lowers_the_loss(model_dirs, tmp_path):
    module = SFT(PolicyArgs(path=model_dirs["student"]), optimizer=adam)
    before = loaded(model_dirs["student"], tmp_path).answer_loss(tuple(prompts(8)))[0].item()
    trainer(tmp_path, max_epochs=10, limit_val_batches=1.0, num_sanity_val_steps=0).fit(module, Prompts(prompts(8)))
    assert module.answer_loss(tuple(prompts(8)))[0].item() < 0.5 * before


def test_a_row_without_text_is_named(model_dirs, tmp_path):
    bad = Prompt(id="row 7", messages=prompts(1)[0].messages, gold=None)
    with pytest.raises(UserError, match="'row 7' has no text to learn from; name the column"):
        trainer(tmp_path).fit(SFT(PolicyArgs(path=model_dirs["student"])), Prompts([bad]))

import pytest
import torch
from tiny import Memory, Prompts, adam, make_tokenizer, prompts, sgd, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

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
    loss, cut, tokens = loaded(model_dirs["student"], tmp_path).answer_loss(tuple(batch))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model_dirs["student"]),
        AutoTokenizer.from_pretrained(model_dirs["student"]),
    )
    total, count = 0.0, 0
    for prompt in batch:  # one row at a time, labels -100 on the prompt
        start = tokenizer.apply_chat_template(
            [dict(m) for m in prompt.messages], add_generation_prompt=True, tokenize=False
        )
        start, answer = (tokenizer(text, add_special_tokens=False).input_ids for text in (start, f"{prompt.gold}<end>"))
        ids = torch.tensor([start + answer])
        labels = torch.tensor([[-100] * len(start) + answer])
        total += model(input_ids=ids, labels=labels).loss.item() * len(answer)
        count += len(answer)
    assert loss.item() == pytest.approx(total / count, abs=1e-4)
    assert (cut, tokens) == (0, count)


def test_long_answers_are_cut_and_counted(model_dirs, tmp_path):
    long = Prompt(id="long", messages=prompts(1)[0].messages, gold="1" * 50)
    _, cut, tokens = loaded(model_dirs["student"], tmp_path, max_answer_tokens=10).answer_loss((prompts(1)[0], long))
    assert (cut, tokens) == (0.5, 12)


def test_training_lowers_the_loss(model_dirs, tmp_path):
    module = SFT(PolicyArgs(path=model_dirs["student"]), optimizer=adam)
    before = loaded(model_dirs["student"], tmp_path).answer_loss(tuple(prompts(8)))[0].item()
    trainer(tmp_path, max_epochs=10, limit_val_batches=1.0, num_sanity_val_steps=0).fit(module, Prompts(prompts(8)))
    assert module.answer_loss(tuple(prompts(8)))[0].item() < 0.5 * before


def test_a_row_without_text_is_named(model_dirs, tmp_path):
    bad = Prompt(id="row 7", messages=prompts(1)[0].messages, gold=None)
    with pytest.raises(UserError, match="'row 7' has no text to learn from; name the column"):
        trainer(tmp_path).fit(SFT(PolicyArgs(path=model_dirs["student"])), Prompts([bad]))


def test_ends_in_the_data(model_dirs, tmp_path):
    prompt = prompts(1)[0]
    going_on = [prompt, Prompt(id="row 7", messages=prompt.messages, gold="1<end>2")]
    with pytest.raises(UserError, match="'row 7': its answer goes on behind '<end>', where the model stops; cut"):
        trainer(tmp_path).fit(SFT(PolicyArgs(path=model_dirs["student"])), Prompts(going_on))
    module = loaded(model_dirs["student"], tmp_path)
    plain, ended = (
        module.answer_loss((Prompt(id="p", messages=prompt.messages, gold=gold),)) for gold in ("12", "12<end>\n<eos>")
    )
    assert (ended.loss.item(), ended.tokens) == (plain.loss.item(), 3)
    empty = [prompt, Prompt(id="empty", messages=prompt.messages, gold="<end>")]
    with pytest.warns(UserWarning, match="2 of 4 answers are empty: all that they teach is to end at once"):
        trainer(tmp_path, max_steps=1).fit(SFT(PolicyArgs(path=model_dirs["student"]), optimizer=adam), Prompts(empty))


UNEVEN = [
    Prompt(id=str(i), messages=({"role": "user", "content": f"{i}="},), gold="12" * length)
    for i, length in enumerate([1, 20, 3, 7, 2, 11, 5])
]


def by_transformers(path: str, steps: list[list[Prompt]], rate: float) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after SGD on the mean over all tokens of each step, and those means; row by row in float64."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64),
        AutoTokenizer.from_pretrained(path),
    )
    losses = []
    for rows in steps:
        nll, count = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            question = tokenizer.apply_chat_template(
                [dict(m) for m in row.messages], add_generation_prompt=True, tokenize=False
            )
            start, answer = (tokenizer(t, add_special_tokens=False).input_ids for t in (question, f"{row.gold}<end>"))
            logps = model(input_ids=torch.tensor([start + answer])).logits[0].log_softmax(-1)
            nll = nll - logps[len(start) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
            count += len(answer)
        loss = nll / count
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad  # type: ignore[operator]
        losses.append(loss.item())
    return dict(model.named_parameters()), losses


@pytest.mark.parametrize(("size", "accumulated"), [(4, 1), (1, 4), (2, 2)])
def test_each_token_of_a_step_counts_alike(size, accumulated, model_dirs, tmp_path):
    """However the rows of a step are split; the second step, the end of the epoch, has three rows only."""
    expected, losses = by_transformers(model_dirs["student"], [UNEVEN[:4], UNEVEN[4:]], rate=0.1)
    module, memory = SFT(PolicyArgs(path=model_dirs["student"]), optimizer=sgd), Memory()
    logged: list[float] = []
    memory.log_metrics = lambda metrics, step=None: logged.extend(v for k, v in metrics.items() if k == "train/loss")
    fit = trainer(tmp_path, accumulate_grad_batches=accumulated, logger=memory)
    fit.fit(module, Prompts(UNEVEN, batch_size=size))
    assert fit.global_step == 2
    assert logged == pytest.approx(losses, rel=1e-5)
    for name, weight in module.policy.model.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_validation_loss_is_a_mean_over_tokens(size, model_dirs, tmp_path):
    _, (expected,) = by_transformers(model_dirs["student"], [UNEVEN], rate=0.0)
    data = Prompts(UNEVEN, batch_size=size)
    data.val_prompts = UNEVEN
    module = SFT(PolicyArgs(path=model_dirs["student"]))
    metrics = trainer(tmp_path, limit_val_batches=1.0).validate(module, data, verbose=False)
    assert metrics[0]["val/loss"] == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_draw_their_own_dropout(tmp_path):
    """Equal rows in one step have unlike losses, and a run repeats itself."""
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)

    def losses() -> list[float]:
        module, values = SFT(PolicyArgs(path=str(tmp_path)), optimizer=sgd, seed=3), []
        answer_loss = module.answer_loss
        module.answer_loss = lambda rows: (values.append(answer_loss(rows)), values[-1])[1]  # type: ignore[method-assign]
        trainer(tmp_path, accumulate_grad_batches=3).fit(module, Prompts([UNEVEN[0]] * 3, batch_size=1))
        return [value.loss.item() for value in values]

    first = losses()
    assert len(set(first)) == 3
    assert losses() == first


@pytest.mark.parametrize("limit", [0, -1])
def test_no_answer_is_cut_to_nothing(limit):
    with pytest.raises(UserError, match=r"--model\.max_answer_tokens must be at least 1, got"):
        SFT(PolicyArgs(path="x"), max_answer_tokens=limit)

"""Each objective on a real model: what a step loses and changes, by plain PyTorch or TRL; distillation converges."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from pairs_data import data
from real_model import Plain, Steps, asked, questions, sums
from tiny import Prompts, rounding, trainer
from transformers import AutoModelForCausalLM

from lit_uniopd.cli.export import export
from lit_uniopd.modules import DPO, SFT, PairLossArgs, UniOPD
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers

pytestmark = pytest.mark.slow

PAIRS = [
    ("What is 3 + 4?", "3 + 4 = 7.", "It is eight, I think."),
    ("Say hello.", "Hello there!", "No."),
    ("Name a colour.", "Blue.", "Blue, red, green and yellow."),
    ("What is 你好?", "It means hello 🙂", "A word."),
    ("Count to three.", "1, 2, 3", "3"),
    ("Is water wet?", "Yes.", "I cannot say."),
]


def test_two_steps_of_sft_are_those_of_plain_pytorch(model_path, plain, tmp_path):
    """Rows of unlike length, two a step: each token counts alike. SGD, so that a step shows the gradient's size."""
    rate, steps, rows = 1e-3, Steps(), sums(4)
    module = SFT(PolicyArgs(path=model_path), optimizer=partial(torch.optim.SGD, lr=rate))
    trainer(tmp_path, callbacks=[steps]).fit(module, Prompts(rows, batch_size=2))
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    losses, largest, update, limit, logit = [], 0.0, 0.0, 0.0, 0.0
    for batch in (rows[:2], rows[2:]):
        encoded = [plain.tokens(prompt) for prompt in batch]
        with torch.no_grad():
            logit = max(logit, *(float(model(torch.tensor([[*p, *a]])).logits.abs().max()) for p, a in encoded))
        nll = -torch.stack([plain.logps(model, *row).sum() for row in encoded]).sum()
        loss = nll / sum(len(answer) for _, answer in encoded)
        model.zero_grad()
        loss.backward()
        largest = max(largest, *(float(p.grad.abs().max()) for p in model.parameters()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
        losses.append(loss.item())
    assert len(steps.metrics) == 2
    for ours, theirs in zip(steps["train/loss"], losses, strict=True):
        assert abs(ours - theirs) <= rounding(logit)  # a log-prob is a difference of numbers of that size
    before, theirs = plain.model.state_dict(), model.state_dict()
    for name, ours in module.policy.model.state_dict().items():
        update = max(update, float((theirs[name] - before[name]).abs().max()))
        # A gradient's numbers are sums over the tokens of products through 30 layers; the weight rounds once a step.
        # Kernels of other processors add them up in another order.
        limit = 2 * rate * rounding(largest, steps=4096) + rounding(theirs[name], steps=2)
        assert float((ours - theirs[name]).abs().max()) <= limit, name
    assert update > 100 * limit

    export(module.policy, tmp_path / "exported")
    try:
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    finally:
        (tmp_path / "exported/model.safetensors").unlink(missing_ok=True)  # half a gigabyte, that pytest would keep
    start, _ = plain.tokens(rows[0])
    ids = torch.tensor([start])
    with torch.no_grad():
        assert torch.equal(exported(input_ids=ids).logits, module.policy.model.eval()(input_ids=ids).logits)


@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_three_steps_of_dpo_are_those_of_trls_trainer(model_path, plain, tmp_path):
    """The second and third from weights that AdamW and the clipped gradient have moved away from the reference."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rate = 1e-5
    prompts = [asked(question) for question, _, _ in PAIRS]
    rows = [
        {"prompt": [dict(m) for m in prompt.messages], "chosen": good, "rejected": bad}
        for prompt, (_, good, bad) in zip(prompts, PAIRS, strict=True)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = Steps()
    module = DPO(
        PolicyArgs(path=model_path),
        PairLossArgs(kind="dpo", beta=0.1),
        optimizer=partial(torch.optim.AdamW, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
        gradient_clip=1.0,
    )
    source = data(tmp_path / "pairs.jsonl", batch_size=2, val=None)
    trainer(tmp_path, callbacks=[steps]).fit(module, source)

    class Recorded(DPOTrainer):
        losses: list[float] = []  # noqa: RUF012  # the log rounds them

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.losses.append(float(loss))
            return loss

    # Its texts as our templates write them; the end of an answer it writes itself.
    table = [
        {"prompt": plain.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)}
        | {"chosen": row["chosen"], "rejected": row["rejected"]}
        for row in rows
    ]
    settings: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    settings |= {"save_strategy": "no", "max_steps": 3, "per_device_train_batch_size": 2, "disable_dropout": True}
    settings |= {"train_sampling_strategy": "sequential", "lr_scheduler_type": "constant", "logging_steps": 1}
    settings |= {"learning_rate": rate, "max_grad_norm": 1.0, "disable_tqdm": True}
    theirs: Any = Recorded(
        model=AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
        processing_class=plain.tokenizer,
        train_dataset=Dataset.from_list(table),
        args=DPOConfig(output_dir=str(tmp_path / "trl"), beta=0.1, **settings),
    )
    theirs.train()
    norms = [entry["grad_norm"] for entry in theirs.state.log_history if "grad_norm" in entry]
    assert len(theirs.losses) == len(norms) == len(steps.metrics) == 3
    assert steps["train/loss"][0] == pytest.approx(0.693147, abs=1e-5)
    assert len({round(loss, 2) for loss in theirs.losses}) > 1  # it has moved
    for ours, loss in zip(steps["train/loss"], theirs.losses, strict=True):
        assert ours == pytest.approx(loss, abs=1e-4)
    assert steps["train/grad_norm"] == pytest.approx(norms, rel=1e-3)


@pytest.mark.exhaustive  # as with tiny models
def test_a_copy_as_teacher_teaches_nothing(model_path, plain: Plain, tmp_path):
    """Loss, KL and gradient are what rounding leaves of them."""
    steps = Steps()
    module = opd(model_path, model_path, seed=3, sampling=SamplingArgs(n=2, max_new_tokens=8))
    trainer(tmp_path, callbacks=[steps], max_steps=1).fit(module, Prompts(questions(2), batch_size=2))
    (rollouts,), (metrics,) = steps.rollouts, steps.metrics
    rows = [
        (start, tokens[:length].tolist())
        for start, tokens, length in zip(rollouts.prompt_tokens, rollouts.tokens_BT, rollouts.lengths_B, strict=True)
    ]
    _, error = plain.exact_and_rounding(rows)
    # An advantage is the difference of two float32 log-probs of the same token: two such errors, of other tokens maybe.
    limit = 4 * error
    assert 0 < limit < 1e-3
    assert float((rollouts.advantages_BT * rollouts.mask_BT).abs().max()) <= limit
    assert abs(metrics["train/kl_all_tokens"]) <= limit
    assert abs(metrics["train/loss"]) <= limit
    # The gradient is the mean over answers and tokens of advantage times the log-prob's gradient.
    norms = []
    for logp in plain.logps(plain.model, *rows[0]):
        plain.model.zero_grad()
        logp.backward(retain_graph=True)
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in plain.model.parameters()])))
    plain.model.zero_grad()
    assert metrics["train/grad_norm"] <= limit * max(norms)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [42, 7])
@pytest.mark.thinned(2)
def test_the_student_comes_closer_to_another_teacher(seed, model_path, sharper, tmp_path):
    """With the shipped loss settings, over eight steps; the rate is the one that suits so few."""
    steps = KLs()
    module = opd(model_path, sharper, seed=seed, sampling=SamplingArgs(n=8, max_new_tokens=16))
    trainer(tmp_path, callbacks=[steps], max_steps=8, max_epochs=8).fit(module, Prompts(questions(1), batch_size=1))
    assert len(steps.metrics) == 8
    before, after = steps.exact
    assert after < 0.6 * before


class KLs(Steps):
    """Also the KL per token before and after training, on answers that are sampled with the same noise.

    That of whole distributions: the KL of the sampled tokens, ``train/kl_all_tokens``, is three times more or less from
    one step of 128 tokens to the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exact: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.measure(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.measure(pl_module)

    @torch.no_grad()
    def measure(self, module: UniOPD) -> None:
        rollouts = write_answers(module.policy, questions(1), SamplingArgs(n=16, max_new_tokens=16), seed=0)
        (start,) = {tuple(tokens) for tokens in rollouts.prompt_tokens}  # of one prompt
        # Padding is on the right and attention causal: no mask needed.
        ids = torch.cat([torch.tensor(start).expand(len(rollouts.tokens_BT), -1), rollouts.tokens_BT], dim=1)
        student, teacher = (
            policy.model(input_ids=ids).logits[:, len(start) - 1 : -1].log_softmax(-1)
            for policy in (module.policy, module.teachers["default"])
        )
        kl_BT = (student.exp() * (student - teacher)).sum(-1)
        self.exact.append(float(kl_BT[rollouts.mask_BT].mean()))


def opd(student: str, teacher: str, **options: Any) -> UniOPD:
    rate = partial(torch.optim.AdamW, lr=5e-6, betas=(0.9, 0.98), weight_decay=0.1)
    teachers = {"default": PolicyArgs(path=teacher)}
    return UniOPD(PolicyArgs(path=student), teachers, optimizer=rate, grader_workers=1, **options)

"""Rollout, scoring and update of one model, and the memory plan against the peak."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.setting import Batch, Row, Setting, update
from lit_uniopd.memory import Setup, Workload, plan_memory
from lit_uniopd.memory.plan import readable
from lit_uniopd.policy import Policy
from lit_uniopd.policy.flops import Passes, work_of
from lit_uniopd.sampling import SamplingArgs, sample


def adamw(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-6)  # type: ignore[arg-type]


def measure(setting: Setting, shape: str) -> Iterator[Row]:
    """Full weights in float32 under bf16-mixed with gradient checkpointing, as the configs have them."""
    setting.reset_peak()
    args, sizes = setting.args(shape, gradient_checkpointing=True), setting.sizes
    policy, batch = setting.policy(args), setting.batch()
    yield setting.row("parameters", f"{sum(p.numel() for p in policy.parameters()):,}")
    optimizer = adamw(policy.parameters())
    passes = Passes.over(map(len, batch.table), zip(map(len, batch.prompts), batch.lengths, strict=True))
    with setting.mixed():
        yield rollout(setting, policy, batch, passes)
        yield scoring(setting, policy, batch, passes)

        def step() -> None:
            update(policy, batch, sizes.micro_batch_tokens)
            optimizer.step()
            optimizer.zero_grad()

        step()
        seconds = setting.seconds(step)
    yield setting.row(
        "update", f"{batch.tokens / seconds:,.0f} tokens/s", setting.mfu(work_of(policy.model).update(passes), seconds)
    )
    row = sizes.prompt_tokens + sizes.new_tokens
    workload = Workload(
        train_tokens=min(sizes.micro_batch_tokens, len(batch.prompts) * row),
        longest_row=row,
        score_tokens=min(sizes.micro_batch_tokens, len(batch.prompts) * row),
        rows=len(batch.prompts),
        prompts=len(batch.table),
        prompt_tokens=sizes.prompt_tokens,
        new_tokens=sizes.new_tokens,
    )
    plan = plan_memory(Setup(args, "policy", adamw, workload, precision="bf16-mixed", cuda=setting.cuda))
    peak = setting.peak()
    if peak is None:
        yield setting.row("peak of memory", "left out", f"a CPU has none; the plan says {readable(plan.total)}")
    else:
        note = f"{peak / plan.total:.2f} of the plan's {readable(plan.total)} ({plan.peak})"
        yield setting.row("peak of memory", readable(peak), note)


def rollout(setting: Setting, policy: Policy, batch: Batch, passes: Passes) -> Row:
    """Answers of full length, by the loop."""

    def write(tokens: int) -> None:
        args = SamplingArgs(n=setting.sizes.n, max_new_tokens=tokens, engine="loop")
        sample(policy.model, batch.table, args, eos_ids=[], pad_id=0, seed=0)

    with policy.answering():
        write(4)
        seconds = setting.seconds(lambda: write(setting.sizes.new_tokens))
    written = sum(batch.lengths)
    note = f"{len(batch.prompts)} rows; {setting.mfu(work_of(policy.model).forward(passes), seconds)}"
    return setting.row("rollout, loop", f"{written / seconds:,.0f} tokens/s", note)


def scoring(setting: Setting, policy: Policy, batch: Batch, passes: Passes) -> Row:
    """Log-probs of the answers without gradients."""

    def score() -> None:
        for prompts, tokens_BT, mask_BT in batch.passes(policy, setting.sizes.micro_batch_tokens):
            policy.token_logps(prompts, tokens_BT, mask_BT)

    with policy.answering():
        score()
        seconds = setting.seconds(score)
    note = setting.mfu(work_of(policy.model).forward(passes), seconds)
    return setting.row("scoring", f"{batch.tokens / seconds:,.0f} tokens/s", note)

"""What an evaluation asks of a device: of each model the benchmark that needs most, before anything is loaded."""

from dataclasses import replace
from functools import partial

from lightning import Trainer

from lit_uniopd.benchmarks.conversation import last_prompts, most_turns
from lit_uniopd.benchmarks.distributed_evaluator import Evaluator
from lit_uniopd.benchmarks.engine import EvalArgs, protocol_args, sampling_args
from lit_uniopd.benchmarks.length_estimate import amount
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.memory import Setup, Workload, plan_memory, trainer_facts
from lit_uniopd.modules.lengths import longest_prompt
from lit_uniopd.modules.validation import EvaluatedModels
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import encode
from lit_uniopd.policy.loading import load_processor, model_config
from lit_uniopd.sampling.engines import likely_engine
from lit_uniopd.types import Prompt
from lit_uniopd.utils.trainer_data import TrainerData


def evaluation_setups(trainer: Trainer, models: EvaluatedModels, evaluator: Evaluator | None) -> list[Setup]:
    """What the memory plans of the models that will answer depend on.

    Args:
        trainer: with its datamodule.
        models: whose answers are scored.
        evaluator: of the run, with its benchmarks; None: there is nothing to answer.
    """
    facts = trainer_facts(trainer)
    of_benchmarks = TrainerData(trainer).max_rows is not None
    load_of = partial(
        _workload,
        ranks=trainer.world_size,
        cuda=facts["cuda"],
        rows_flag="data.max_rows" if of_benchmarks else "model.val_sampling.max_rows",
    )
    benchmarks, args = ([], EvalArgs()) if evaluator is None else (list(evaluator.benchmarks.values()), evaluator.args)
    setups = []
    for policy, flag in models.evaluated_args:
        answered = [benchmark for benchmark in benchmarks if models.policy_args_for(benchmark)[1] == flag]
        loads = [load_of(policy, flag, benchmark, args) for benchmark in answered]
        loads.append(Workload(train_tokens=0, longest_row=0))  # it is held also where it answers nothing
        cases = [Setup(policy, flag, None, load, **facts) for load in loads]
        setups.append(max(cases, key=lambda setup: plan_memory(setup).total))
    return setups


def _workload(
    policy: PolicyArgs, flag: str, benchmark: Benchmark, args: EvalArgs, *, ranks: int, cuda: bool, rows_flag: str
) -> Workload:
    likely = replace(args, sampling=replace(args.sampling, engine=likely_engine(args.sampling, cuda=cuda)))
    sampling = sampling_args(benchmark.generation, likely)
    rows = min(amount([benchmark], args.max_rows, ranks).batch, sampling.max_rows)
    earlier_answers = most_turns(benchmark.examples) - 1
    prompt = _longest_prompt(policy, flag, benchmark) + earlier_answers * sampling.max_new_tokens
    colocated = sampling.colocates
    return Workload(
        train_tokens=0,
        longest_row=prompt + sampling.max_new_tokens,
        rows=0 if sampling.server is not None else rows,
        rows_flag=rows_flag,
        engine_flag="model.val_sampling.colocate",
        prompts=max(1, rows // sampling.n),
        prompt_tokens=prompt,
        new_tokens=sampling.max_new_tokens,
        colocated=sampling.colocate if colocated else None,
    )


def _longest_prompt(policy: PolicyArgs, flag: str, benchmark: Benchmark) -> int:
    """Tokens of the longest prompt, in the benchmark's own rendering; without the answers in it, of a conversation."""
    if benchmark.harness is not None and benchmark.harness.renders:
        return benchmark.harness.longest(load_processor(policy, flag), model_config(policy, flag), policy)
    processor, args = load_processor(policy, flag), protocol_args(policy, benchmark)

    def length(prompt: Prompt) -> int:
        return len(encode(processor, prompt, args.chat_template_kwargs, args.max_pixels).tokens)

    return longest_prompt(last_prompts(benchmark), length)

"""``uniopd judge RUN``: let a model judge a run's answers to AlpacaEval 2, Arena-Hard and the like.

The judge is a model that is loaded here (--judge), or one behind an OpenAI-compatible address (--judge and --url). Each
verdict is kept in RUN/verdicts as soon as it is there: the same command goes on where it stopped. The wording is ours,
and the scores then are no official ones, unless --template gives another.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from rich.console import Console
from rich.table import Table

from lit_uniopd.benchmarks.judging import JUDGED_HERE
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.report.console import wide_console
from lit_uniopd.errors import UserError
from lit_uniopd.utils.command_parser import CommandParser
from lit_uniopd.utils.strict_yaml import parse_yaml


def parser() -> CommandParser:
    """The options of ``uniopd judge``."""
    options = CommandParser(
        prog="uniopd judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path, help="directory of a run, e.g. runs/benchmarks/version_0")
    options.add_argument(
        "--judge", required=True, help="hub id, directory or playground:NAME; with --url the model's name there"
    )
    options.add_argument("--url", help="OpenAI-compatible address, up to and with /v1, e.g. http://127.0.0.1:8000/v1")
    options.add_argument(
        "--api_key_variable", default="OPENAI_API_KEY", help="environment variable with the key of --url"
    )
    options.add_argument(
        "--options", default="{}", help="of each request with --url, else of the model: '{dtype: bfloat16}'"
    )
    options.add_argument(
        "--engine", default="auto", choices=["auto", "loop", "generate", "vllm"], help="that writes replies here"
    )
    options.add_argument(
        "--max_tokens", type=int, help="of a reply; default: 1 for log-probs, 16 for a letter or mark, else 4096"
    )
    options.add_argument("--rows", type=int, default=16, help="questions under way at the same time")
    options.add_argument("--benchmark", help="name or YAML file, where the run has several that are judged")
    options.add_argument("--baseline", help="answers to compare with: a file, or another run's directory")
    options.add_argument(
        "--template", help="text or YAML file with another wording, or PACKAGE:PATH of one in an installed package"
    )
    options.add_argument(
        "--orders", default="both", choices=["both", "one"], help="show each pair in both orders, or in a drawn one"
    )
    options.add_argument(
        "--verdict", default="logprobs", choices=["logprobs", "text"], help="AlpacaEval 2: weighted, or as written"
    )
    options.add_argument("--length_control", help="AlpacaEval 2: its df_gamed.csv, for the official length control")
    options.add_argument(
        "--style_control", action="store_true", help="Arena-Hard: also the win rate at the baseline's style"
    )
    options.add_argument("--dry_run", action="store_true", help="say what it costs, and ask nothing")
    return options


def main(argv: list[str]) -> int:
    """The command line of ``uniopd judge``."""
    args = parser().parse_args(argv)
    if not args.run.is_dir():
        raise UserError(f"{args.run} is no directory; give that of a run, e.g. runs/benchmarks/version_0.")
    judge = judge_args(args)
    from lit_uniopd.benchmarks.judging.judge_run import write_result  # torch

    judged = judged_benchmark(args.run, judge)
    console = wide_console()
    console.print(judged.cost().sentence(judged.key), markup=False, highlight=False, soft_wrap=True)
    if args.dry_run:
        return 0
    if judge.url and judged.missing:
        host = urlsplit(judge.url).hostname
        console.print(f"Questions and answers are sent to {host}.", markup=False, highlight=False)
    judged.ask()
    result = judged.result()
    write_result(args.run, judged.key, result)
    judged.log_counts(result)
    judged.refuse_no_score(result)
    show(judged.key, result, console)
    return 0


def judge_args(options: argparse.Namespace) -> JudgeArgs:
    """The options but for the run's own.

    Raises:
        UserError: naming the option that cannot be read.
    """
    values = {f.name: getattr(options, f.name) for f in fields(JudgeArgs)}
    try:
        values["options"] = parse_yaml(options.options, "--options")
    except yaml.YAMLError:
        values["options"] = None
    if not isinstance(values["options"], dict):
        raise UserError(f"--options {options.options} must be names and values, e.g. '{{dtype: bfloat16}}'.")
    return JudgeArgs(**values)


def judged_benchmark(run: Path, args: JudgeArgs) -> Any:
    """A run's last answers before the judge that the options name.

    Raises:
        UserError: naming the option that does not fit.
    """
    from lit_uniopd.benchmarks.judging.answers import load_rows
    from lit_uniopd.benchmarks.judging.build import Judging
    from lit_uniopd.benchmarks.judging.judge_run import run_summary

    spec, records = _answers(run, args)
    run_summary(run, spec.key)
    return Judging(args, load_rows(spec, records)).of_answers(records, run)


def _answers(run: Path, args: JudgeArgs) -> tuple[Any, Any]:
    """The benchmark to judge, and the run's last answers to it."""
    from lit_uniopd.benchmarks.heldout import recorded_spec
    from lit_uniopd.benchmarks.records import by_benchmark, last_evaluation
    from lit_uniopd.benchmarks.registry import find_spec
    from lit_uniopd.benchmarks.report.summary import run_records

    answers = by_benchmark(last_evaluation(run_records(run)))
    specs = {key: recorded_spec(records[0]) for key, records in answers.items()}
    if args.benchmark is not None:
        spec = find_spec(args.benchmark)
        if spec.key not in answers:
            raise UserError(f"--benchmark {spec.key} was not answered in {run}; name one of {', '.join(answers)}.")
        specs = {spec.key: spec}
    judged = {key: spec for key, spec in specs.items() if spec.scoring.export in JUDGED_HERE}
    if len(judged) != 1:
        names = ", ".join(judged) or "none"
        raise UserError(
            f"`uniopd judge` judges one benchmark at a time, and {run} has {names} (of {', '.join(specs)}); name "
            "one by --benchmark that is AlpacaEval 2, Arena-Hard, SedarEval, MM-Vet or Object HalBench."
        )
    ((key, spec),) = judged.items()
    return spec, answers[key]


def show(key: str, result: dict[str, Any], console: Console) -> None:
    """Print scores under the name of the wording, and what is not in them."""
    template, judge = result["template"], result["judge"]
    against = f" against {result['baseline']}" if result["baseline"] else ""
    table = Table()
    for column in ("score", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, value in result["scores"].items():
        interval = result["interval"].get(name)
        table.add_row(name, f"{value:.1%}", "-" if interval is None else f"{interval[0]:.1%} - {interval[1]:.1%}")
    for name, value in result["breakdown"].items():
        table.add_row(f"  {name}", f"{value:.1%}", "-")
    lines = (
        f"{key}{against} · wording {template['name']}, version {template['version']} · judge {judge['name']}",
        f"{result['judged_answers']} of {result['answers']} answers judged · {result['unreadable']} of "
        f"{result['verdicts']} verdicts cannot be read · {result['refused']} questions refused",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(table)

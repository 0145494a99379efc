"""From options to a benchmark before its judge, the same for `uniopd judge` and while a run evaluates."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from lit_uniopd.benchmarks.judging.answers import Answer, Baseline, judged_rows, read_baseline
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.judging.judge_run import JudgedBenchmark
from lit_uniopd.benchmarks.judging.judges import Judge, LocalJudge, ServerJudge
from lit_uniopd.benchmarks.judging.length_control import read_gamed
from lit_uniopd.benchmarks.judging.protocols import PROTOCOLS, AlpacaEval, ArenaHard, Protocol
from lit_uniopd.benchmarks.judging.templates import Template, own_template, read_template
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.spec import Benchmark, BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.sampling.args import Engine

OWNERS = {
    "orders": AlpacaEval.kind,
    "verdict": AlpacaEval.kind,
    "length_control": AlpacaEval.kind,
    "style_control": ArenaHard.kind,
}
"""Option -> the kind of benchmark that alone has it."""


class Judging:
    """How one benchmark is judged: all but its answers, and nothing large is loaded.

    Args:
        args: the options.
        benchmark: with its rows.
        auto_engine: that writes a local judge's replies where the options leave it open.

    Raises:
        UserError: naming the option that does not fit.
    """

    def __init__(self, args: JudgeArgs, benchmark: Benchmark, auto_engine: Engine = "auto") -> None:
        self.args, self.benchmark = args, benchmark
        self.engine: Engine = auto_engine if args.engine == "auto" else args.engine
        self.protocol = _protocol(args, benchmark.spec)
        self.template = _template(args, self.protocol)
        _check_engine(args, self.protocol, self.template)
        self.baseline = _baseline(args, self.protocol, benchmark)
        blank = [Answer(example.id, 0, "") for example in benchmark.examples]
        rows = judged_rows(benchmark, blank, self.baseline)
        self.protocol.check(rows)
        brought = {"rubric": [row.rubric for row in rows], "own_prompt": [row.own_prompts for row in rows]}
        for name, cells in brought.items():
            if name in self.template.fields and (lacking := sum(not cell for cell in cells)):
                raise UserError(
                    f"--template: the wording asks for the {name} of each question, and {lacking} of {len(rows)} rows "
                    f"have none; give a text file with {{own_prompt}} or {{rubric}}, whichever all rows have."
                )

    def judge(self) -> Judge:
        """Who judges; a model is loaded.

        Raises:
            UserError: if it cannot be had.
        """
        args, max_tokens = self.args, self.args.max_tokens or self.protocol.max_tokens
        if args.url is None:
            return LocalJudge(args.judge, max_tokens, args.options, engine=self.engine, max_rows=args.rows)
        return ServerJudge(
            args.url, args.judge, max_tokens, args.options, api_key_variable=args.api_key_variable, requests=args.rows
        )

    def of_answers(self, answers: Sequence[Record | Answer], directory: Path) -> JudgedBenchmark:
        """The answers before the judge.

        Args:
            answers: to the benchmark.
            directory: of the run, which keeps the verdicts.

        Raises:
            UserError: if the judge cannot be had.
        """
        rows = judged_rows(self.benchmark, answers, self.baseline)
        name = "" if self.baseline is None else self.baseline.name
        judge, orders = self.judge(), self.args.orders
        return JudgedBenchmark(self.benchmark.key, rows, self.protocol, self.template, judge, directory, name, orders)


def _protocol(args: JudgeArgs, spec: BenchmarkSpec) -> Protocol:
    """How the benchmark is judged, with the options that are its own."""
    kind = spec.scoring.export or ""
    defaults = {f.name: f.default for f in fields(args)}
    for name, owner in OWNERS.items():
        if getattr(args, name) != defaults[name] and owner != kind:
            raise UserError(f"--{name} is no option of {spec.key}; leave it out, or name another --benchmark.")
    if kind == AlpacaEval.kind:
        gamed = None if args.length_control is None else read_gamed(Path(args.length_control))
        return AlpacaEval(args.verdict, gamed)
    return ArenaHard(args.style_control) if kind == ArenaHard.kind else PROTOCOLS[kind]()


def _template(args: JudgeArgs, protocol: Protocol) -> Template:
    if args.template is None:
        return own_template(protocol.kind)
    return read_template(args.template, protocol.needed, protocol.may_show, protocol.instead)


def _check_engine(args: JudgeArgs, protocol: Protocol, template: Template) -> None:
    if args.url is not None and not urlsplit(args.url).hostname:
        raise UserError(f"--url {args.url} must begin with http:// or https:// and name a host.")
    if args.engine == "auto":
        return
    if args.url is not None:
        raise UserError("--engine is of a judge that is loaded here; leave it out with --url.")
    if protocol.letters(template) is not None:
        raise UserError(
            "--engine is for replies, and log-probs need none; leave it out, or ask for the letter by --verdict text."
        )


def _baseline(args: JudgeArgs, protocol: Protocol, benchmark: Benchmark) -> Baseline | None:
    if protocol.pairwise and args.baseline is None:
        raise UserError(f"{benchmark.key} compares answers with those of a baseline; give them by --baseline.")
    if not protocol.pairwise and args.baseline is not None:
        raise UserError(f"{benchmark.key} compares answers with the right ones; leave out --baseline.")
    return None if args.baseline is None else read_baseline(Path(args.baseline), benchmark)

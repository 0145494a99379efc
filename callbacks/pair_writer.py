"""On-policy preference pairs: sampled answers, scored and paired."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.resumable_prediction import ResumablePrediction
from lit_uniopd.errors import UserError
from lit_uniopd.scorers import GraderScore, Scorer
from lit_uniopd.scorers.pairing import PairingArgs, ScoredAnswer, pair_answers, pairing_report
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.jsonl import read_lines, write_lines
from lit_uniopd.utils.trainer_data import TrainerData
from lit_uniopd.utils.write_json import write_json

log = logging.getLogger(__name__)


class PairWriter(ResumablePrediction):
    """Score every answer that `uniopd predict` samples, and write pairs of a better and a worse one.

    Scored answers are kept beside the pairs (`pairs.answers.jsonl` of `pairs.jsonl`) as soon as a batch is done, so a
    killed run goes on with the same command, and another `pairing` needs no new answers. The pairs are written when
    all prompts are answered, in the form that ``PreferenceDataModule`` reads; `pairs.report.json` has their statistics
    and what was left out, by reason.

    Args:
        path: the file of pairs.
        scorer: what scores the answers. Default: their grader.
        pairing: which answers become pairs. Default: the best and the worst of each prompt.
    """

    def __init__(self, path: str, scorer: Scorer | None = None, pairing: PairingArgs | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix != ".jsonl":
            raise UserError(f"PairWriter.path {path} must end in .jsonl.")
        super().__init__(self.path.with_suffix(".answers.jsonl"))
        self.scorer = GraderScore() if scorer is None else scorer
        self.pairing = pairing or PairingArgs()

    def lines(self, pl_module: LightningModule, rollouts: Rollouts) -> Iterable[Mapping[str, Any]]:
        scores = self.scorer(rollouts, pl_module.device)
        groups: dict[int, dict[str, Any]] = {}
        for row, group in enumerate(rollouts.group_B.tolist()):
            prompt = rollouts.prompts[row]
            if any(not isinstance(image, str) for image in prompt.images):
                raise UserError(f"Prompt {prompt.id!r} has an embedded picture, which pairs cannot name; use files.")
            line = groups.setdefault(
                group,
                {
                    "prompt": prompt.key,
                    "id": prompt.id,
                    "domain": prompt.domain,
                    "messages": [dict(message) for message in prompt.messages],
                    "images": [str(Path(image).resolve()) for image in prompt.images],
                    "scorer": self.scorer.name,
                    "answers": [],
                },
            )
            answer = ScoredAnswer(
                rollouts.text[row], scores[row], rollouts.grades[row].outcome, rollouts.finish[row] == "stop"
            )
            line["answers"].append(asdict(answer))
        return groups.values()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:  # type: ignore[override]
        """Refuse, before a model is loaded, prompts that cannot be scored and answers that cannot differ."""
        if stage != "predict":
            return
        prompts = TrainerData(trainer).prompts("predict")
        if prompts and isinstance(self.scorer, GraderScore) and all(prompt.grader is None for prompt in prompts):
            raise UserError(
                "No prompt has a grader, by which PairWriter scores answers; name one by --data.predict.grader, or "
                "another --trainer.callbacks.scorer."
            )
        sampling = pl_module.val_sampling
        same = sampling.greedy_option("model.val_sampling") or ("--model.val_sampling.n 1" if sampling.n == 1 else None)
        if same is not None:
            raise UserError(
                f"With {same} a prompt has no two answers that differ, and PairWriter pairs those; set "
                "--model.val_sampling.n 5 and temperature 0.8, say."
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to go on with another scorer's answers."""
        other_scorers = {line["scorer"] for line in read_lines(self.lines_file)} - {self.scorer.name}
        if other_scorers:
            raise UserError(
                f"{self.lines_file} has answers that {min(other_scorers)} scored, not {self.scorer.name}; move it "
                "away, or give PairWriter another path."
            )
        super().on_predict_start(trainer, pl_module)

    def finish(self) -> None:
        left_out: Counter[str] = Counter()
        lines = self.written_lines()
        pairs = [row for line in lines for row in self._rows(line, left_out)]
        answers = sum(len(line["answers"]) for line in lines)
        report = pairing_report(len(lines), answers, pairs, left_out)
        write_json(self.path.with_suffix(".report.json"), report)
        dropped = ", ".join(f"{count} {reason}" for reason, count in report["left_out"].items())
        if not pairs:
            raise UserError(
                f"None of {len(lines)} prompts has a pair ({dropped}); sample more answers "
                "(--model.val_sampling.n), or lower pairing.min_margin."
            )
        write_lines(self.path, pairs)
        log.info(
            "%s has %d pairs of %d prompts; scores differ by %.3g on average, and chosen answers are longer by %.1f "
            "characters. Left out: %s.",
            self.path,
            len(pairs),
            len(lines),
            report["score_gap"]["mean"],
            report["longer_by_characters"],
            dropped or "nothing",
        )

    def _rows(self, line: Mapping[str, Any], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
        answers = [ScoredAnswer(**answer) for answer in line["answers"]]
        for number, (chosen, rejected) in enumerate(pair_answers(answers, self.pairing, left_out)):
            yield {
                "id": f"{line['id']}#{number}",
                "domain": line["domain"],
                "prompt": line["messages"],
                "chosen": chosen.text,
                "rejected": rejected.text,
                "score_chosen": chosen.score,
                "score_rejected": rejected.score,
                "correct_chosen": chosen.outcome,
                "correct_rejected": rejected.outcome,
                **({"images": line["images"]} if line["images"] else {}),
            }

"""A captioner teaches itself behind the objects that detectors saw: prompts as ``SentencePairWriter`` writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.hallucination.records import checked_prompts
from lit_uniopd.modules import UniOPD
from lit_uniopd.playground.captioner import BOS, LINE, PICTURE, PICTURE_TOKENS, Reader
from lit_uniopd.playground.scenes import QUESTION
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.teachers import ReadsArgs, TeacherArgs
from lit_uniopd.types import Rollouts

PICTURES = 4


class Watch(Callback):
    def __init__(self) -> None:
        self.seen: list[Rollouts] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.seen.append(rollouts)


def first_rollout(scenes: Path, prompts: Path, template: str) -> Rollouts:
    """Of one step in which the captioner, as it is at the start, is its own teacher."""
    watch = Watch()
    module = UniOPD(
        PolicyArgs(path=str(scenes / "captioner")),
        {"default": TeacherArgs(weights="student_at_start", reads=ReadsArgs(template=template))},
        SamplingArgs(n=1, max_new_tokens=24, temperature=1.0, top_p=1.0, top_k=0),
        seed=0,
    )
    options: dict[str, Any] = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode"], False
    )
    trainer = Trainer(accelerator="cpu", max_steps=1, use_distributed_sampler=False, callbacks=[watch], **options)
    trainer.fit(module, PromptDataModule(train=SourceArgs(path=str(prompts)), batch_size=PICTURES, seed=0))
    return watch.seen[0]


def test_the_teacher_reads_the_view_and_equal_views_say_nothing(scenes, tmp_path):
    """What it says with a list is what the model says, by itself, behind the question with the list."""
    rows = [json.loads(line) for line in (scenes / "scenes.jsonl").read_text().splitlines()[:PICTURES]]
    lines = [
        {
            "id": row["id"],
            "domain": row["domain"],
            "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"]}]}],
            "images": [str(scenes / row["images"][0])],
            "verdicts": dict.fromkeys(row["objects"], "factual"),
        }
        for row in rows
    ]
    table = tmp_path / "pairs.prompts.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in checked_prompts(lines)))
    blind, viewing = (first_rollout(scenes, table, template) for template in ("{prompt}", "{prompt} {factual:. }."))
    assert torch.equal(blind.tokens_BT, viewing.tokens_BT), "the student does not see the list"
    assert float(blind.advantages_BT.abs().max()) < 1e-4
    assert float((viewing.teacher_logps_BT - blind.teacher_logps_BT).abs().max()) > 0.01

    policy, reader = Policy.load(PolicyArgs(path=str(scenes / "captioner")), trainable=False), Reader()
    objects = {row["id"]: row["objects"] for row in rows}
    for row, prompt in enumerate(viewing.prompts):
        length = int(viewing.lengths_B[row])
        question = reader.ids(f"{QUESTION} {'. '.join(sorted(objects[prompt.id]))}.")
        start = [BOS, *[PICTURE] * PICTURE_TOKENS, *question, LINE]
        ids = torch.tensor([[*start, *viewing.tokens_BT[row, :length].tolist()]])
        with torch.no_grad():
            logits = policy.model(input_ids=ids, **policy.encode(prompt).vision).logits[0, len(start) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, ids[0, len(start) :, None])[:, 0]
        torch.testing.assert_close(viewing.teacher_logps_BT[row, :length], expected, atol=1e-4, rtol=0)

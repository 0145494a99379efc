from dataclasses import replace
from typing import Any

import pytest
import torch

from lit_uniopd.errors import UserError
from lit_uniopd.types import Grade, Prompt, Rollouts


def rollouts() -> Rollouts:
    prompts = [Prompt(id=f"p{i}", messages=({"role": "user", "content": "?"},), gold=i, domain="d") for i in range(2)]
    return Rollouts(
        prompts=[prompts[0], prompts[0], prompts[1]],
        prompt_tokens=[[1], [1], [2, 3]],
        tokens_BT=torch.tensor([[5, 0, 0], [6, 7, 8], [9, 4, 0]]),
        mask_BT=torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool),
        student_logps_BT=torch.tensor([[-1.0, 0, 0], [-2, -3, -4], [-5, -6, 0]]),
        group_B=torch.tensor([0, 0, 1]),
        finish=["stop", "length", "stop"],
        text=["a", "bcd", "ef"],
        outcome_B=torch.tensor([1, 0, -1]),
        grades=[Grade(True, 1.0, "a"), Grade(False, 0.0, None, "wrong"), Grade(None, 0.0)],
        teacher_logps_BT=torch.zeros(3, 3),
        teacher_ok_B=torch.tensor([True, True, False]),
        advantages_BT=torch.zeros(3, 3),
        keep_B=torch.ones(3, dtype=torch.bool),
    )


@pytest.mark.parametrize("index", [[0, 2], torch.tensor([0, 2]), torch.tensor([True, False, True]), slice(0, 3, 2)])
def test_indexing_takes_rows_and_drops_columns_of_padding(index):
    subset = rollouts()[index]
    assert subset.tokens_BT.tolist() == [[5, 0], [9, 4]]
    assert subset.text == ["a", "ef"]
    assert [prompt.id for prompt in subset.prompts] == ["p0", "p1"]
    assert subset.outcome_B.tolist() == [1, -1]


def test_no_rows():
    subset = rollouts()[[]]
    assert len(subset) == 0
    assert subset.tokens_BT.shape == (0, 0)


def test_cat_pads_to_the_longest_response():
    original = rollouts()
    again = Rollouts.cat([original[[0]], original[[1, 2]]])
    assert again.tokens_BT.tolist() == original.tokens_BT.tolist()
    assert again.mask_BT.tolist() == original.mask_BT.tolist()
    assert again.finish == original.finish
    with pytest.raises(ValueError, match="at least one"):
        Rollouts.cat([])


def test_saved_rollouts_come_back_whole(tmp_path):
    original = rollouts()
    said: dict[str, Any] = {
        "teacher_messages": ({"role": "user", "content": "q"},),
        "teacher_system": "s",
        "teacher_images": ("a.png",),
    }
    original.prompts[0] = replace(original.prompts[0], **said)
    original.prompts[1] = replace(original.prompts[1], teacher_images=())
    original.save(tmp_path / "r.pt")
    again = Rollouts.load(tmp_path / "r.pt")
    assert again.prompts == original.prompts
    assert again.grades == original.grades
    assert torch.equal(again.student_logps_BT, original.student_logps_BT)
    assert torch.equal(again.sampler_logps_BT, original.sampler_logps_BT)


def test_a_samplers_own_log_probs_travel_with_the_answers(tmp_path):
    original = rollouts()
    assert torch.equal(original.sampler_logps_BT, original.student_logps_BT)  # the student's own engine: the same
    original.student_logps_BT = original.student_logps_BT - 0.5 * original.mask_BT
    assert original[[2, 0]].sampler_logps_BT.tolist() == [[-5, -6], [-1, 0]]
    assert (
        Rollouts.cat([original[[0]], original[[1, 2]]]).sampler_logps_BT.tolist() == original.sampler_logps_BT.tolist()
    )
    original.save(tmp_path / "r.pt")
    again = Rollouts.load(tmp_path / "r.pt")
    assert again.sampler_logps_BT.tolist() == [[-1, 0, 0], [-2, -3, -4], [-5, -6, 0]]
    assert again.student_logps_BT.tolist() == original.student_logps_BT.tolist()
    assert original.to("cpu").sampler_logps_BT.tolist() == again.sampler_logps_BT.tolist()


def test_top_tokens_travel_with_the_answers(tmp_path):
    original = rollouts()
    assert [ids.shape for ids in original.teacher_top_ids] == [(0, 0)] * 3
    original.teacher_top_ids = [torch.full((n, 2), n, dtype=torch.int32) for n in (1, 3, 2)]
    original.teacher_top_logps = [torch.full((n, 2), -float(n)) for n in (1, 3, 2)]
    turned = original[[2, 0]]
    assert [ids[0, 0].item() for ids in turned.teacher_top_ids] == [2, 1]
    assert [logps[0, 0].item() for logps in Rollouts.cat([turned, original[[1]]]).teacher_top_logps] == [-2, -1, -3]
    original.save(tmp_path / "r.pt")
    again = Rollouts.load(tmp_path / "r.pt")
    for name in ("teacher_top_ids", "teacher_top_logps"):
        assert all(map(torch.equal, getattr(again, name), getattr(original, name)))


def test_another_file_is_refused_in_one_sentence(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt does not hold rollouts"):
        Rollouts.load(tmp_path / "x.pt")

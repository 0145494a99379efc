"""One process, DDP and FSDP2 train to the same weights; checkpoints of any of them go on under any other."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.scaling import RESUMED, SCENARIOS, Files, run
from safetensors.torch import load_file
from serving import ModelServers
from tiny import rounding
from transformers import AutoModelForCausalLM

from lit_uniopd.cli import main
from lit_uniopd.policy import Policy, PolicyArgs

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "scaling.py"
WITH_DDP = ("uni_opd", "split_groups", "pictures", "omni_dpo_lora", "sentinel", "sft")
IN_CI = (
    *("uni_opd", "uni_opd_lora", "uni_opd_reused", "split_groups", "divergence", "unscored", "averaged_lora"),
    "top_logps",
    *("by_layer", "lagged", "pictures", "omni_dpo", "omni_dpo_cached", "sentinel", "sentinel_cached", "sft"),
)


def cases(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in IN_CI else pytest.mark.exhaustive) for name in names]


def launch(root: Path, ranks: int, jobs: Sequence[str]) -> None:
    """Run scenarios in so many processes, in the way that docs/scaling.md shows."""
    command = [sys.executable, str(SCRIPT), str(root), *jobs]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of every scenario on one process and on two ranks; one's checkpoints go on under FSDP and the reverse."""
    root = tmp_path_factory.mktemp("scaling")
    ours = [item for item in request.session.items if item.path == Path(__file__)]
    is_whole = any(item.get_closest_marker("exhaustive") for item in ours)
    names, with_ddp, resumed = (
        [name for name in group if is_whole or name in IN_CI] for group in (SCENARIOS, WITH_DDP, RESUMED)
    )
    Files(root).write()
    servers = ModelServers([("student", str(root / "student"))], "rollout_server.py")
    teachers = ModelServers([("math", str(root / "math"))])
    try:
        (root / "servers.json").write_text(json.dumps(servers.all))
        (root / "teachers.json").write_text(json.dumps(teachers.all))
        launch(root, 1, [f"one:{name}" for name in names])
        jobs = [f"fsdp:{name}" for name in names] + [f"ddp:{name}" for name in with_ddp]
        jobs += [f"fsdp:{name}@{root}/one-1/{name}.ckpt" for name in resumed]
        jobs += [f"ddp:omni_dpo@{root}/fsdp-2/omni_dpo.ckpt"]
        launch(root, 2, jobs)
    finally:
        servers.close()
        teachers.close()
    return root


def result(root: Path, run: str, name: str) -> dict[str, Any]:
    return torch.load(root / run / f"{name}.pt", weights_only=True)


def same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Loss, gradients, weights, answers and scores."""
    assert actual["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(actual["weights"][name], weight, atol=1e-5, rtol=0)
    for name, grad in actual["grads"].items():
        # One process leaves a tower that it never uses without gradients, where ranks exchange zeros.
        torch.testing.assert_close(grad, expected["grads"].get(name, torch.zeros_like(grad)), atol=1e-5, rtol=1e-5)
    assert actual["answers"] == expected["answers"]
    assert actual["logged"].keys() == expected["logged"].keys()
    assert actual["logged"] == pytest.approx(expected["logged"], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("name", cases(SCENARIOS))
def test_two_sharded_ranks_train_like_one_process(name, root):
    same(result(root, "fsdp-2", name), result(root, "one-1", name))


@pytest.mark.parametrize("name", ["uni_opd", "uni_opd_lora", "uni_opd_reused", "divergence", "pictures"])
def test_groups_have_moved_to_ranks_with_less_to_do(name, root):
    assert result(root, "one-1", name)["moved"] == 0
    assert result(root, "fsdp-2", name)["moved"] > 0


def test_ranks_load_in_turn(root):
    (_, ended), (began, _) = sorted(result(root, "fsdp-2", "uni_opd")["loading"])
    assert ended <= began


@pytest.mark.parametrize("name", cases(WITH_DDP))
def test_two_copies_train_like_one_process(name, root):
    same(result(root, "ddp-2", name), result(root, "one-1", name))


@pytest.mark.parametrize("name", cases(SCENARIOS))
def test_the_scenarios_do_something(name, root):
    outcome = result(root, "one-1", name)
    start = Files(root).model("seeing_student" if name.startswith(("pictures", "sentinel")) else "student")
    assert any(grad.abs().max() > 1e-3 for grad in outcome["grads"].values())
    if not any(".lora_" in key for key in outcome["weights"]):
        policy = Policy.load(start, trainable=False)
        moved = [
            outcome["weights"][f"policy.{n}"] - p
            for n, p in policy.named_parameters()
            if f"policy.{n}" in outcome["weights"]
        ]
        assert max(float(change.abs().max()) for change in moved) > 1e-3
    if name in ("uni_opd", "uni_opd_lora"):
        lengths = {len(tokens) for _, tokens in outcome["answers"]}
        assert len(lengths) > 1
        assert outcome["removed"] > 0  # in the whole run: the last step's answers may be in balance already
        assert outcome["logged"]["calibration/shift"] > 0


@pytest.mark.parametrize("name", cases(RESUMED))
def test_a_run_goes_on_with_another_number_of_ranks(name, root):
    unbroken = result(root, "one-1", name)["weights"]
    run("one", 1, root, name, root / f"fsdp-2/{name}.ckpt")
    runs = [("fsdp-2", name), ("one-1", name)] + ([("ddp-2", name)] if name == "omni_dpo" else [])
    for kind, _ in runs:
        resumed = result(root, kind, f"{name}-resumed")
        for key, weight in unbroken.items():
            torch.testing.assert_close(resumed["weights"][key], weight, atol=1e-5, rtol=0)


def test_checkpoints_hold_what_was_trained(root):
    directory = root / "fsdp-2/uni_opd.ckpt"
    assert {file.suffix for file in directory.iterdir()} == {".pt", ".safetensors"}
    state = torch.load(root / "fsdp-2/uni_opd_lora.ckpt", weights_only=True)
    assert all(".lora_" in name for name in state["state_dict"])
    assert len(state["optimizer_states"][0]["state"]) == len(state["state_dict"])


@pytest.mark.parametrize("name", ["uni_opd", "uni_opd_lora"])
def test_exports_hold_the_weights(name, root):
    """That of a sharded run's end; under LoRA, merged."""
    exported = load_file(root / f"fsdp-2/{name}/policy/model.safetensors")
    expected = load_file(root / f"one-1/{name}/policy/model.safetensors")
    assert exported.keys() == expected.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(exported[key], weight, atol=1e-5, rtol=0)
    AutoModelForCausalLM.from_pretrained(root / f"fsdp-2/{name}/policy")


def test_the_verb_exports_a_sharded_checkpoint(root, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {{init_args: {{student: {{path: {root / 'student'}}}}}}}")
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(root / "fsdp-2/uni_opd.ckpt"), str(tmp_path / "out"), "--config", str(config)])
    assert stopped.value.code == 0
    state = torch.load(root / "one-1/uni_opd.ckpt", weights_only=True)["state_dict"]
    policy = Policy.load(PolicyArgs(path=str(tmp_path / "out")), trainable=False)
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter, state[f"policy.{name}"], atol=1e-5, rtol=0)


def test_ranks_share_the_reference_and_keep_what_one_process_keeps(root):
    cached = {}
    for ranks in (1, 2):
        files = list(Path(Files(root).cache(ranks)).glob("*.jsonl"))
        assert len(files) == 2 * ranks  # of each rank, for the pairs and for the sentences
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        cached[ranks] = {line["pair"]: line["logps"] for line in lines}
        assert len(cached[ranks]) == len(lines)
    assert cached[2].keys() == cached[1].keys()
    # Sums of up to -152 nats, where one float32 step is 1.5e-5. Batches are the same on any number of ranks, so this
    # allows only for kernels that round otherwise where FSDP has put the weights.
    for pair, logps in cached[1].items():
        assert cached[2][pair] == pytest.approx(logps, abs=rounding(*logps))


@pytest.mark.exhaustive
def test_two_copies_each_shared_by_two_ranks(root):
    names = ("by_layer", "averaged_lora", "omni_dpo", "omni_dpo_cached")
    launch(root, 4, [*(f"hsdp:{name}" for name in names), f"hsdp:omni_dpo@{root}/hsdp-4/omni_dpo.ckpt"])
    for name in names:
        same(result(root, "hsdp-4", name), result(root, "one-1", name))
    resumed = result(root, "hsdp-4", "omni_dpo-resumed")["weights"]
    for key, weight in result(root, "one-1", "omni_dpo")["weights"].items():
        torch.testing.assert_close(resumed[key], weight, atol=1e-5, rtol=0)


@pytest.mark.exhaustive
def test_four_ranks(root):
    names = ("uni_opd", "uni_opd_reused", "split_groups", "in_teams", "pictures", "omni_dpo")
    launch(root, 4, [f"fsdp:{name}" for name in names] + [f"fsdp:uni_opd@{root}/fsdp-2/uni_opd.ckpt"])
    for name in names:
        same(result(root, "fsdp-4", name), result(root, "one-1", name))
    spans = sorted(result(root, "fsdp-4", "uni_opd")["loading"])
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))
    resumed = result(root, "fsdp-4", "uni_opd-resumed")["weights"]
    for key, weight in result(root, "one-1", "uni_opd")["weights"].items():
        torch.testing.assert_close(resumed[key], weight, atol=1e-5, rtol=0)

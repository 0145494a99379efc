"""What cannot be had: the hub, servers, detectors, judges, a GPU; and what is said when it can."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from doctor_data import of
from huggingface_hub import constants
from lightning.pytorch.loggers import CSVLogger
from tiny import Prompts, module, prompts, trainer

from callbacks import PairWriter
from datamodules import PictureDataModule, PromptDataModule, SourceArgs
from lit_uniopd.cli import main
from lit_uniopd.doctor import Finding, exit_status, hub_reachability, run_all_checks
from lit_uniopd.doctor.dry_run import Case
from lit_uniopd.hallucination.detectors import Owlv2, TableDetector
from lit_uniopd.modules import Evaluation, LossArgs, SentenceBootstrap
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.scorers import Judge, RewardModel
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.utils.http import ServerError, Servers

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)


def test_a_model_of_the_hub_without_a_network(examined, unplugged):
    began = time.perf_counter()
    findings = examined(quick=False, paths={"math": "owner/name"})
    assert time.perf_counter() - began < 60  # the hub's own client takes 23 s for each of a dozen files
    assert not constants.HF_HUB_OFFLINE  # as it was
    red = [f for f in findings if f.status == "red"]
    assert [f.message.partition(" (")[0] for f in red] == [
        "--model.teachers.math.path owner/name: there is no such directory here and the hub did not give it"
    ]
    assert red[0].remedy == "Mend the name, or check the network."
    # What does not need that model is looked at all the same, with weights too.
    green = {f.name for f in findings if f.status == "green"}
    assert {"data", "golds", "teachers", "tokens code", "ends", "sampling", "disk", "disagreement code"} <= green
    assert "tokens math" not in {f.name for f in findings}


def test_a_student_that_is_not_there(examined, unplugged, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1=", "answer": "1", "domain": "math", "grader": "exact"}\n' * 2)
    data = PromptDataModule(train=SourceArgs(path=str(tmp_path / "p.jsonl")), batch_size=1, max_prompt_tokens=1)
    findings = examined({"student": "owner/name"}, data=data)
    assert [f.name for f in findings if f.status == "red"] == ["models"]
    assert [(f.status, f.message) for f in of(findings, "data")] == [
        ("yellow", "Rows were read, but not measured."),
        ("green", "2 training prompts (math 2)."),
    ]
    assert data.trainer is not None
    assert "prompt_length" not in vars(data.trainer.lightning_module)  # the stand-in is gone


def test_the_hub_is_left_alone_where_nothing_is_of_it(examined, monkeypatch):
    monkeypatch.setattr(hub_reachability, "is_reachable", lambda: pytest.fail("it was asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert exit_status(examined()) == 0
    assert hub_reachability.on_hub("owner/name")
    assert not any(map(hub_reachability.on_hub, ["playground:student", "./there", "/there", "~/there", "", "tests"]))


def test_models_are_listed_with_their_sizes(examined, healthy):
    student = PolicyArgs(path=healthy["student"], lora=LoraArgs(rank=4), quantization="4bit")
    message = of(examined(student=student), "models")[0].message
    assert message.startswith("student: Qwen3ForCausalLM, ")
    assert "in 4bit, adapters of rank 4; teacher math: Qwen3ForCausalLM" in message


def test_adapters_on_a_quantised_student_are_examined_with_weights(examined, healthy):
    student = PolicyArgs(path=healthy["student"], lora=LoraArgs(rank=4), quantization="4bit")
    findings = examined(quick=False, student=student)
    assert exit_status(findings) == 0
    assert of(findings, "self-test")[0].status == "green"


def served(url: str, **options: Any) -> dict[str, Any]:
    return {"math": TeacherArgs(placement="http", http=HttpArgs(urls=[url], **options))}


@pytest.mark.thinned(2)
def test_a_teacher_on_a_server(examined, healthy, model_dirs, model_servers):
    student = {"student": PolicyArgs(path=model_dirs["student"])}
    local = {"code": PolicyArgs(path=model_dirs["code"])}
    findings = examined(quick=False, teachers=served(model_servers.urls["math"][0]) | local, **student)
    assert of(findings, "server math")[0].message == (
        "1 vllm server: math is served, scores answers and speaks the student's tokens."
    )
    assert of(findings, "disagreement math")[0].status == "green"

    top = {"loss": LossArgs(kind="topk", top_k=5, top_k_direction="forward")}
    findings = examined(teachers=served(model_servers.urls["math"][0]) | local, **student, **top)
    assert of(findings, "server math")[0].message == (
        "1 vllm server: math is served, scores answers, names its 5 likeliest tokens and speaks the student's tokens."
    )
    top["loss"].top_k = 21
    limit = of(examined(teachers=served(model_servers.urls["math"][0]) | local, **student, **top), "server math")[0]
    assert limit.message.startswith("--model.loss.top_k 21 is more than --model.teachers.math.http.urls")
    assert limit.remedy == "Lower --model.loss.top_k, or start the server with --max-logprobs 21."

    began = time.perf_counter()
    findings = examined(quick=False, teachers=served(NOWHERE, retries=8) | local, **student)
    assert time.perf_counter() - began < 30
    down = of(findings, "server math")[0]
    assert (down.status, down.message.startswith(f"--model.teachers.math.http.urls {NOWHERE} cannot be reached")) == (
        "red",
        True,
    )
    assert down.remedy.startswith("Start a vllm server there")
    assert sum(f.status == "red" for f in findings if f.name != "ends") == 1
    assert of(findings, "disagreement code")[0].status == "green"

    other = examined(teachers=served(model_servers.urls["math"][0], model="law") | local, **student)
    assert "serves math and not law" in of(other, "server math")[0].message


def test_servers_that_write_the_rollouts(examined, healthy, model_dirs, rollout_servers, tmp_path):
    models = {
        "student": PolicyArgs(path=model_dirs["student"]),
        "teachers": {name: PolicyArgs(path=model_dirs[name]) for name in ("math", "code")},
    }

    def sampling(urls: list[str]) -> SamplingArgs:
        server = ServerArgs(urls=urls, model="student", directory=str(tmp_path / "weights"), retries=8)
        return SamplingArgs(n=2, max_new_tokens=5, engine="vllm", server=server)

    up = examined(quick=False, sampling=sampling(rollout_servers.all), **models)
    assert of(up, "server")[0].message.endswith(" serves student.")
    assert of(up, "self-test")[0].status == "green"
    assert not (tmp_path / "weights").exists()  # nothing was sent to them
    down = of(examined(sampling=sampling([NOWHERE]), **models), "server")[0]
    assert (down.status, "cannot be reached" in down.message, down.remedy) == (
        "red",
        True,
        "Start it, or correct the address.",
    )


def test_patience_with_servers_is_what_it_was(healthy, tmp_path):
    server = ServerArgs(urls=[NOWHERE], model="student", directory=str(tmp_path / "weights"), retries=8)
    sampling = SamplingArgs(n=2, max_new_tokens=5, engine="vllm", server=server)
    run = module(healthy, sampling=sampling, teachers=served(NOWHERE, retries=7))
    case = Case(run, Prompts(prompts(4)), trainer(tmp_path))
    teacher = run.teachers.remote["math"].servers
    assert run.sampling.server is not None
    assert (run.sampling.server.retries, teacher.retries) == (0, 0)
    case.release()
    assert run.sampling.server is not None
    assert (run.sampling.server.retries, teacher.retries) == (8, 7)


def test_the_trainer_of_the_run_is_left_as_it_is(healthy, tmp_path):
    runner = trainer(tmp_path, logger=CSVLogger(tmp_path))
    before, loggers = dict(vars(runner)), list(runner.loggers)
    data = Prompts(prompts(4))
    case = Case(module(healthy), data, runner)
    assert (case.trainer.loggers, case.trainer.state.fn, case.trainer_data.datamodule) == ([], "fit", data)
    assert vars(runner) == before
    assert (runner.loggers, runner.state.fn) == (loggers, None)
    case.release()


def test_a_pool_of_models_that_are_loaded(healthy):
    student = Policy.load(PolicyArgs(path=healthy["student"], lora=LoraArgs(rank=4)), trainable=True)
    pool = TeacherPool.of({"math": student, "code": student})
    assert pool.load(student) == []
    assert pool.loaded == {"math": student, "code": student}


def predicting(healthy: dict[str, str], tmp_path: Path, grader: str | None = "exact", **writer: Any) -> list[Finding]:
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}=", "answer": str(i)}) + "\n" for i in range(4))
    )
    data = PromptDataModule(predict=SourceArgs(path=str(tmp_path / "p.jsonl"), grader=grader), batch_size=2)
    plugs = [PairWriter(str(tmp_path / "pairs.jsonl"), **writer)]
    return run_all_checks(Evaluation(PolicyArgs(path=healthy["student"])), data, trainer(tmp_path, callbacks=plugs))


def test_a_run_that_only_predicts(healthy, tmp_path):
    findings = predicting(healthy, tmp_path)
    assert exit_status(findings) == 0
    assert of(findings, "data")[0].message == "4 prediction prompts (default 4)."
    assert of(findings, "golds")[0].message.startswith("4 gold answers are accepted")
    assert of(findings, "settings")[0].status == "green"
    ungraded = of(predicting(healthy, tmp_path, grader=None), "golds")[0]
    assert (ungraded.status, "--data.predict.grader" in ungraded.remedy) == ("red", True)


def test_what_judges_answers(healthy, tmp_path, monkeypatch, unplugged):
    findings = predicting(healthy, tmp_path, grader=None, scorer=RewardModel("owner/judge"))
    assert not of(findings, "golds")
    assert "RewardModel.path owner/judge cannot be had" in of(findings, "scorer")[0].message
    down = of(predicting(healthy, tmp_path, scorer=Judge(f"{NOWHERE}/v1", "big")), "scorer")[0]
    assert (down.status, f"{NOWHERE}/v1 cannot be reached" in down.message) == ("red", True)
    judge = Judge("http://judge/v1", "big")
    for served, status in (("big", "green"), ("small", "red")):
        monkeypatch.setattr(Servers, "get", lambda *_, served=served, **__: {"data": [{"id": served}]})
        assert of(predicting(healthy, tmp_path, scorer=judge), "scorer")[0].status == status

    def silent(*_: Any, **__: Any) -> Any:
        raise ServerError("answers 404 Not Found", status=404)

    monkeypatch.setattr(Servers, "get", silent)
    assert of(predicting(healthy, tmp_path, scorer=judge), "scorer")[0].status == "yellow"


def test_bootstrapping_from_a_folder_of_pictures(tmp_path, unplugged):
    from PIL import Image

    write_tiny_vision(tmp_path / "sees", 0)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "pictures/a.png")
    detectors = [TableDetector({"a.png": ["cat"]}), Owlv2("owner/detector")]
    run = SentenceBootstrap(PolicyArgs(path=str(tmp_path / "sees")), detectors)
    findings = run_all_checks(run, PictureDataModule(str(tmp_path / "pictures")), trainer(tmp_path), quick=True)
    assert of(findings, "data")[0].message == "1 prediction prompts (pictures 1)."
    assert not of(findings, "golds")
    assert of(findings, "pictures policy")[0].status == "green"
    missing, ready = of(findings, "detectors")
    assert (missing.status, "Owlv2.path owner/detector cannot be had" in missing.message) == ("red", True)
    assert ready.message == "TableDetector is ready."


def test_the_stage_may_be_chosen(healthy, tmp_path):
    data = Prompts(prompts(4))
    assert Case(module(healthy), data, trainer(tmp_path)).stage == "fit"
    assert Case(module(healthy), data, trainer(tmp_path), "predict").stage == "predict"
    evaluation = Evaluation(PolicyArgs(path=healthy["student"]))
    assert Case(evaluation, data, trainer(tmp_path)).stage == "validate"
    assert Case(evaluation, None, trainer(tmp_path)).stage == "validate"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
def test_without_the_gpu_that_a_config_wants_all_else_is_examined(healthy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i}=", "answer": str(i), "domain": "math"} for i in range(64)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [f"--model.{name}.path={healthy['math']}" for name in ("student", "teachers.math", "teachers.code")]
    arguments = ["-c", str(ROOT / "configs/uni_opd/multi_teacher.yaml"), *models, "--data.train.path=p.jsonl"]
    arguments += ["--data.val.path=p.jsonl", "--model.sampling.max_new_tokens=8"]
    for machine in ("gpu", "ddp", "fsdp"):
        with pytest.raises(SystemExit) as stop:
            main(["doctor", "--quick", *arguments, "-c", str(ROOT / f"configs/trainer/{machine}.yaml")])
        assert stop.value.code == 1
        out = capsys.readouterr().out
        assert "-> Take -c configs/trainer/cpu.yaml." in out
        assert out.rstrip().endswith(" 1 red")
        assert "on one device" in out  # the memory plan


@pytest.mark.parametrize("machine", ["ddp", "fsdp"])
@pytest.mark.thinned(2)
def test_strategies_of_several_ranks_are_examined_by_one(machine, healthy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"prompt": "1=", "answer": "1", "domain": "math"}\n' * 8)
    arguments = ["-c", str(ROOT / "configs/uni_opd/multi_teacher.yaml")]
    arguments += [f"--model.{name}.path={healthy['math']}" for name in ("student", "teachers.math", "teachers.code")]
    arguments += ["--data.train.path=p.jsonl", "--data.val.path=p.jsonl", "--data.global_batch_size=2"]
    arguments += ["-c", str(ROOT / f"configs/trainer/{machine}.yaml"), "--trainer.accelerator=cpu"]
    arguments += ["--trainer.devices=2", "--trainer.precision=32-true", "--model.sampling.max_new_tokens=8"]
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    out = capsys.readouterr().out
    assert stop.value.code == 0, out
    assert "2 x cpu" in out
    assert "learns nothing" in out


def test_a_flag_of_nobody_is_answered_by_one_sentence(capsys):
    for arguments, words in (
        (
            ["--quik", "-c", str(ROOT / "configs/quickstart.yaml")],
            "--quik: there is no such option (did you mean --quick?)",
        ),
        (["--stge=fit", "-c", str(ROOT / "configs/quickstart.yaml")], "(did you mean --stage?)"),
        (["--sead", "1", "-c", str(ROOT / "configs/quickstart.yaml")], "--sead: there is no such option"),
        (["--stage", "train", "-c", str(ROOT / "configs/quickstart.yaml")], "invalid choice: 'train'"),
        (["-c", "none.yaml"], "mend the path"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["doctor", *arguments])
        error = capsys.readouterr().err.splitlines()[-1]
        assert (stop.value.code, error.startswith("error: "), words in error) == (2, True, True), error

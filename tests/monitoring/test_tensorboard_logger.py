"""Which curves TensorBoard is given, and by what its tab HPARAMS compares runs."""

import logging
from pathlib import Path
from typing import Any, cast

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard_events import curves_of, layout_of
from tiny import Prompts, adam, module, prompts, trainer

from callbacks import BenchmarkEvaluation, RolloutBrowser
from lit_uniopd.monitoring.logger_adapters import TensorBoardAdapter, logger_adapter
from lit_uniopd.monitoring.tensorboard_layout import compared_settings, compared_tags
from lit_uniopd.monitoring.tensorboard_logger import CompactTensorBoardLogger
from lit_uniopd.utils.run_directory import CONFIG, run_directory

SETTINGS = """
seed_everything: 5
trainer: {max_steps: 2}
model:
  class_path: lit_uniopd.modules.UniOPD
  init_args:
    student: {path: "playground:student"}
    loss: {kind: sampled, clip_low: 0.2}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 5.0e-4}}
data: {class_path: datamodules.PromptDataModule, init_args: {batch_size: 32, train: {path: a.jsonl}}}
"""


def events(directory) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def fit(paths, root, logger):
    callbacks = [BenchmarkEvaluation(), RolloutBrowser(every_n_steps=1)]
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    run = trainer(root, logger=logger, callbacks=callbacks, **options)
    (run_directory(run) / CONFIG).write_text(SETTINGS)
    run.fit(module(paths, optimizer=adam), Prompts(prompts(8)))
    return events(logger.log_dir)


def hparams_of(run: EventAccumulator):
    """The settings and the metrics of the tab HPARAMS."""
    contents, messages = {}, cast(Any, plugin_data_pb2)
    for tag, content in run.PluginTagToContent("hparams").items():
        contents[tag] = messages.HParamsPluginData.FromString(content)
    start = contents["_hparams_/session_start_info"].session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    metrics = contents["_hparams_/experiment"].experiment.metric_infos
    return values, [metric.name.tag for metric in metrics]


def test_few_curves_are_written_all_of_the_layout_among_them_and_the_rest_by_a_switch(model_dirs, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        compact = fit(model_dirs, tmp_path, CompactTensorBoardLogger(tmp_path, name="few"))
    every = fit(model_dirs, tmp_path, CompactTensorBoardLogger(tmp_path, name="all", all_tags=True))
    plain = fit(model_dirs, tmp_path, TensorBoardLogger(tmp_path, name="plain", default_hp_metric=False))
    few, all_tags = set(compact.Tags()["scalars"]), set(every.Tags()["scalars"])
    assert all_tags == set(plain.Tags()["scalars"])
    assert few < all_tags
    assert len(few) < 0.5 * len(all_tags)
    line = (
        f"TensorBoard has {len(few)} of {len(all_tags)} curves; --trainer.logger.all_tags true writes the others too."
    )
    assert line in caplog.messages
    (charts,) = curves_of(tmp_path / "few/version_0").values()  # fails where a curve of a chart is not there
    assert charts == next(iter(curves_of(tmp_path / "all/version_0").values()))
    assert not [tag for tag in few if tag.startswith(("epoch", "eval_health/"))]
    assert {"val/math/accuracy", "domain/math/outcome_rate", "train/loss"} <= few
    for tag in few:
        curve = [event.step for event in compact.Scalars(tag)]
        points = every.Scalars(tag)
        assert curve == [event.step for event in points][-len(curve) :], tag
        assert all(event.value == 0 for event in points[: -len(curve)]), f"{tag}: an alarm begins where it is not 0"


def test_alarms_are_written_from_the_first_step_where_they_are_not_0_and_own_tags_always(tmp_path):
    logger = CompactTensorBoardLogger(tmp_path, name="run")
    for step, failed in enumerate([0.0, 0.25, 0.0, float("nan")]):
        logger.log_metrics({"rollout/teacher_failed": failed, "rollout/empty": 0.0, "mine/thing": 1.0}, step=step)
        logger.log_metrics({"train/lr": 0.5, "time/score": 1.0, "train/mine": 2.0}, step=step)
    logger.finalize("success")
    run = events(logger.log_dir)
    assert set(run.Tags()["scalars"]) == {"rollout/teacher_failed", "mine/thing", "train/mine"}
    assert [event.step for event in run.Scalars("rollout/teacher_failed")] == [1, 2, 3]


def test_hparams_has_the_settings_that_differ_and_curves_that_are_there(model_dirs, tmp_path):
    run = fit(model_dirs, tmp_path, CompactTensorBoardLogger(tmp_path, name="run"))
    settings, metrics = hparams_of(run)
    assert settings == {
        **{"module": "UniOPD", "model": "playground:student", "loss": "sampled", "learning rate": 5e-4},
        **{"batch size": 32, "max steps": 2, "training data": "a.jsonl", "seed": 5},
    }
    assert set(metrics) == {"val/math/accuracy", "val/code/accuracy"}
    for tag in metrics:  # with the values of the run alone, and none that the tab has brought along
        steps = [event.step for event in run.Scalars(tag)]
        assert steps == sorted(set(steps))
    assert set(metrics) <= set(run.Tags()["scalars"])


def test_a_run_without_scores_is_compared_by_its_loss():
    assert compared_tags({"Loss": ["train/loss"], "Norm": ["train/grad_norm"]}) == ["train/loss"]
    assert compared_tags({"Loss": ["train/loss", "val/loss"], "B": ["eval_curve/math/x/avg"]}) == [
        "val/loss",
        "eval_curve/math/x/avg",
    ]
    assert compared_settings({}) == compared_settings({"trainer": {"max_steps": -1}}) == {}
    assert compared_settings({"trainer": None, "model": {"init_args": {"policy": {"path": "p"}}}}) == {"model": "p"}


def test_the_first_text_says_what_is_where_and_the_settings_come_last(model_dirs, tmp_path):
    run = fit(model_dirs, tmp_path, CompactTensorBoardLogger(tmp_path, name="run"))
    texts = sorted(tag for tag in run.Tags()["tensors"] if tag.endswith("/text_summary"))
    assert texts[0] == "about/run/text_summary"
    guide = run.Tensors(texts[0])[0].tensor_proto.string_val[0].decode()
    for title in next(iter(layout_of(run).values())):
        assert title.split(" (")[0] in guide
    assert max(texts) < "settings/config"


def test_scores_of_benchmarks_are_among_the_essential_curves():
    charts = BenchmarkEvaluation(["playground_math", "playground_scenes"], profile="fixture").essential_charts()
    assert charts == {
        "Benchmarks (score)": [
            "eval_fixture/math/playground_math@playground/accuracy",
            "eval_fixture/hallucination/playground_scenes@playground/chair_i",
        ]
    }
    assert BenchmarkEvaluation().essential_charts() == {}


@pytest.mark.parametrize("given", ["text", "path"])
def test_it_is_a_tensorboard_logger_for_all_that_asks(tmp_path, given):
    logger = CompactTensorBoardLogger(Path(tmp_path) if given == "path" else str(tmp_path), name="x", version=3)
    assert isinstance(logger_adapter(logger), TensorBoardAdapter)
    assert Path(logger.log_dir) == tmp_path / "x/version_3"

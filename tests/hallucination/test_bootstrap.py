"""The bootstrapping: rules at every step, whatever is sampled, and the run from pictures to a file of pairs."""

import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callbacks import SentencePairWriter
from datamodules import SentencePairDataModule, SourceArgs
from datamodules.sentence_pairs import SentencePairSourceArgs
from datamodules.sources import read_prompts
from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import PRESETS, BootstrapArgs, Bootstrapper, chair, coco
from lit_uniopd.hallucination.bootstrap import RESAMPLES, Candidate
from lit_uniopd.hallucination.detectors import NoisyOracle, Owlv2, TableDetector
from lit_uniopd.hallucination.objects import ObjectExtractor
from lit_uniopd.hallucination.records import caption_line, checked_prompts
from lit_uniopd.hallucination.report import bootstrap_report
from lit_uniopd.modules import SentenceBootstrap, Sentinel
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import read_lines, write_lines

ROOT = Path(__file__).parents[2]
OBJECTS = ["dog", "cat", "car", "bus", "cup", "bowl", "book", "vase"]
TRUTH = {"a.png": ["dog", "cup", "book"], "b.png": ["car"], "c.png": ["cat", "vase", "bowl", "bus"]}
PROMPTS = [Prompt(name, ({"role": "user", "content": "?"},), images=(name,)) for name in TRUTH]


def noisy_writer(seed, n=8):
    """Sentences of random objects, some empty, repeated, cut, or without any object."""

    def write(prompts, step, attempt, *, greedy):
        rows = []
        for prompt in prompts:
            context = prompt.messages[-1]["content"]
            draw = random.Random(f"{seed} {prompt.id} {context} {attempt} {greedy}")
            row = []
            for _ in range(1 if greedy else n):
                names = " and a ".join(draw.sample(OBJECTS, draw.randint(1, 2)))
                kinds = [f"There is a {names}.", f"A {names} stands here!", "It is calm.", "", "About 3.", "A long"]
                text = draw.choices(kinds, weights=[6, 3, 1, 1 + step, 1, 1])[0]
                row.append(Candidate(text, finished=text != "A long"))
            rows.append(row)
        return rows

    return write


def detectors():
    """The second one errs."""
    second = {name: [*objects[:-1], "bowl"] for name, objects in TRUTH.items()}
    return [TableDetector(TRUTH), TableDetector(second)]


def run(seed=0, **options):
    args = BootstrapArgs(**options)
    return Bootstrapper(noisy_writer(seed), detectors(), ObjectExtractor(), args, seed=seed).run(PROMPTS)


@pytest.mark.parametrize("seed", range(8))
def test_what_the_papers_pairs_promise(seed):
    for caption in run(seed):
        tables = [set(detector.table[caption.prompt.id]) for detector in detectors()]
        for sentence in caption.sentences:
            assert sentence.factual, "every sentence of the context was labelled factual"
        for pair in caption.pairs:
            mentioned = [{name for _, name in coco().mentions(side.text)} for side in (pair.chosen, pair.rejected)]
            assert pair.context, "no pair has an empty context"
            assert pair.context_factual
            assert pair.chosen.text
            assert pair.rejected.text
            assert pair.chosen.text != pair.rejected.text
            assert all(mentioned[0] <= table for table in tables), "no hallucinated or uncertain object in a winner"
            assert any(name not in tables[0] | tables[1] for name in mentioned[1]), "a hallucinated object in a loser"
            assert mentioned[0] & {name for _, name in coco().mentions(pair.context)}, "coherent with the context"
            assert caption.text.startswith(pair.context)
            assert "3." not in pair.chosen.text + pair.rejected.text


def test_the_same_seed_gives_the_same_captions():
    first, again, other = ([(c.text, c.pairs) for c in run(seed)] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("preset", PRESETS)
def test_every_caption_ends(preset):
    captions = Bootstrapper(noisy_writer(3), detectors(), ObjectExtractor(), PRESETS[preset], seed=3).run(PROMPTS)
    assert all(c.stopped in ("end", "no_factual", "max_sentences") for c in captions)
    assert all(len(c.sentences) <= PRESETS[preset].max_sentences for c in captions)


def always(text, n=4):
    return lambda prompts, step, attempt, *, greedy: [[Candidate(text)] * (1 if greedy else n) for _ in prompts]


def run_one(write, **options):
    (caption,) = Bootstrapper(write, detectors(), ObjectExtractor(), BootstrapArgs(**options)).run(PROMPTS[:1])
    return caption


def test_a_step_without_a_factual_candidate():
    assert run_one(always("A bus.")).stopped == "no_factual"
    resampled = run_one(always("A bus."), when_no_factual="resample")
    assert (resampled.stopped, len(resampled.steps)) == ("no_factual", 1 + RESAMPLES)
    released = run_one(always("A bus."), when_no_factual="any", max_sentences=3)
    assert (released.text, released.stopped) == ("A bus. A bus. A bus.", "max_sentences")
    not_hallucinated = run_one(always("It is calm."), when_no_factual="not_hallucinated", max_sentences=2)
    assert not_hallucinated.text == "It is calm. It is calm."
    assert run_one(always("A bus."), when_no_factual="not_hallucinated").stopped == "no_factual"
    calm = run_one(always("It is calm."))
    assert (calm.stopped, calm.steps) == ("no_factual", [{"no_object": 1}])


def test_resampling_may_succeed():
    def write(prompts, step, attempt, *, greedy):
        return [[Candidate("A dog." if attempt else "A bus.")] for _ in prompts]

    assert run_one(write, when_no_factual="resample", max_sentences=2).text == "A dog. A dog."


def test_natural_and_hallucinated_contexts():
    def write(prompts, step, attempt, *, greedy):
        return [[Candidate("A cup.")] if greedy else [Candidate("A dog."), Candidate("A bus.")] for _ in prompts]

    assert run_one(write, append="greedy", max_sentences=2).text == "A cup. A cup."
    assert run_one(write, append="hallucinated", max_sentences=2).text == "A bus. A bus."
    natural = run_one(write, append="hallucinated", max_sentences=3)
    assert [pair.context_factual for pair in natural.pairs] == [False] * len(natural.pairs)


def test_sentences_before_the_intervention_are_as_sampled_and_make_no_pairs():
    def write(prompts, step, attempt, *, greedy):
        return [[Candidate("A bus and a dog."), Candidate("A dog.")] for _ in prompts]

    caption = run_one(write, intervene_from=2, max_sentences=4)
    assert caption.text == "A bus and a dog. A bus and a dog. A dog. A dog."
    assert [pair.sentence for pair in caption.pairs] == [2, 3]


def test_pairs_per_step_and_kinds_of_winners():
    def write(prompts, step, attempt, *, greedy):
        texts = ["A dog.", "A dog and a cup.", "A cup.", "A bus.", "A car."]
        return [[Candidate(text) for text in texts] for _ in prompts]

    def pair_texts(**options):
        pairs = run_one(write, max_sentences=2, **options).pairs
        return [(p.chosen.text, p.rejected.text) for p in pairs if p.sentence == 1]

    assert (
        pair_texts(pairs_per_step="one") == [("A dog.", "A bus.")] or pair_texts(pairs_per_step="one")[0][1] == "A bus."
    )
    assert len(pair_texts(pairs_per_step="zip")) == 2
    assert len(pair_texts(pairs_per_step="cross", positives="both")) == 6
    assert len(pair_texts(pairs_per_step="cross")) + len(pair_texts(pairs_per_step="cross", positives="agnostic")) == 6


def test_what_cannot_be_used_is_counted():
    def write(prompts, step, attempt, *, greedy):
        texts = [("A dog.", True), ("About 3.", True), ("A cup and", False), ("A cup", True)]
        return [[Candidate(*candidate) for candidate in texts] for _ in prompts]

    caption = run_one(write, max_sentences=1)
    assert dict(caption.dropped) == {"cut_at_number_or_abbreviation": 1, "too_long": 1}
    assert caption.steps == [{"factual_context_agnostic": 2}], "an answer that ends without a full stop is whole"
    assert not run_one(write, max_sentences=1, keep_unfinished=True).dropped


def test_one_detector_decides_alone_and_uncertainty_can_be_resolved():
    verdicts = {}
    for name, voters in (("two", detectors()), ("one", detectors()[:1])):
        bootstrapper = Bootstrapper(always("A dog, a bowl, a book."), voters, ObjectExtractor(), BootstrapArgs())
        verdicts[name] = bootstrapper.run(PROMPTS[:1])[0].verdict_cache.verdicts
    assert verdicts["one"] == {"dog": "factual", "bowl": "hallucinated", "book": "factual"}
    assert verdicts["two"] == {"dog": "factual", "bowl": "uncertain", "book": "uncertain"}
    for verdict in ("factual", "hallucinated"):
        resolved = run_one(always("A dog, a bowl, a book."), uncertain=verdict).verdict_cache.verdicts
        assert resolved == {"dog": "factual", "bowl": verdict, "book": verdict}


def test_bad_choices_name_their_flag():
    with pytest.raises(UserError, match=r"--model\.bootstrap\.max_sentences 0"):
        BootstrapArgs(max_sentences=0)
    with pytest.raises(ValueError, match="at least one"):
        Bootstrapper(always("A dog."), [], ObjectExtractor())


def test_pictures_become_prompts_with_the_objects_that_all_detectors_saw():
    def line(name, **verdicts):
        asked = [{"role": "user", "content": "?"}]
        return {"id": name, "domain": "d", "messages": asked, "images": [f"{name}.png"], "verdicts": verdicts}

    found = line("a", dog="factual", cat="hallucinated", bus="uncertain", cup="factual")
    without = [line("b", cat="hallucinated"), line("c", bus="uncertain"), line("d")]
    assert checked_prompts([*without, found]) == [
        {"id": "a", "domain": "d", "prompt": found["messages"], "images": ["a.png"], "factual": ["cup", "dog"]}
    ]


def test_pictures_without_such_an_object_are_counted(tmp_path, caplog):
    """The second detector takes the car of b.png for a bowl, and sees no bus in c.png."""
    writer = SentencePairWriter(str(tmp_path / "pairs.jsonl"))
    write_lines(writer.lines_file, [{"prompt": str(i), **caption_line(caption)} for i, caption in enumerate(run())])
    with caplog.at_level(logging.INFO):
        writer.finish()
    assert "pairs.prompts.jsonl has 2 pictures with their factual objects; 1 more have none." in caplog.text
    report = json.loads((tmp_path / "pairs.report.json").read_text())
    assert (report["pictures"], report["pictures_without_factual"]) == (3, 1)
    rows = {row["id"]: row["factual"] for row in read_lines(tmp_path / "pairs.prompts.jsonl")}
    assert rows == {"a.png": ["cup", "dog"], "c.png": ["bowl", "cat", "vase"]}


# --- the run ---


def predict(scenes: Path, out: Path, *options: str) -> None:
    truth = json.dumps({"truth": str(scenes / "scenes.jsonl"), "miss": 0.0, "false_alarm": 0.0})
    oracle = f'{{"class_path": "lit_uniopd.hallucination.detectors.NoisyOracle", "init_args": {truth}}}'
    main(
        [
            *["predict", "-c", "configs/sentinel/bootstrap.yaml", "-c", "configs/trainer/cpu.yaml"],
            *["--model.policy.path", str(scenes / "captioner"), f"--model.detectors=[{oracle}]"],
            *["--model.sampling.n", "6", "--model.sampling.max_new_tokens", "24", "--model.sampling.temperature", "1"],
            *["--model.bootstrap.max_sentences", "4", "--data.predict.path", str(scenes / "scenes.jsonl")],
            *["--data.batch_size", "4", "--trainer.enable_progress_bar", "false"],
            *[f"--trainer.callbacks.path={out}", *options],
        ]
    )


def objects_of(scenes: Path) -> dict[str, dict[str, list[float]]]:
    """Of each scene, its objects with their boxes."""
    return {row["id"]: row["boxes"] for row in map(json.loads, (scenes / "scenes.jsonl").read_text().splitlines())}


@pytest.mark.slow
def test_pictures_become_pairs_and_a_killed_run_comes_to_the_same(scenes, tmp_path, monkeypatch):
    unbroken, killed = tmp_path / "whole" / "pairs.jsonl", tmp_path / "killed" / "pairs.jsonl"
    predict(scenes, unbroken)
    rows = [json.loads(line) for line in unbroken.read_text().splitlines()]
    assert rows
    assert all(row["context"] and row["chosen"] != row["rejected"] for row in rows)
    report = json.loads(unbroken.with_suffix(".report.json").read_text())
    assert (report["pictures"], report["pairs"], report["factual_contexts"]) == (12, len(rows), 1.0)
    assert report["unreadable_pictures"] == 0
    prompts = read_prompts(SourceArgs(str(unbroken.with_suffix(".prompts.jsonl"))), "--data.train")
    assert len(prompts) == 12 - report["pictures_without_factual"] > 0
    assert all(set(prompt.row["factual"]) <= set(objects_of(scenes)[prompt.id]) for prompt in prompts)
    lines = [json.loads(line) for line in unbroken.with_suffix(".captions.jsonl").read_text().splitlines()]
    scores = chair([line["caption"] for line in lines], [line["objects"] for line in lines])
    assert report["captions"]["chair_i"] == pytest.approx(scores.chair_i, abs=1e-4) == 0, "the oracles do not err"
    assert report["captions"]["recall"] == pytest.approx(scores.recall, abs=1e-4)
    assert report["captions"]["recall"] > 0.3
    places = objects_of(scenes)
    for line in lines:
        boxes = {box["object"]: box["place"] for box in line["boxes"]}
        assert boxes == {name: pytest.approx(places[line["id"]][name], abs=1e-4) for name in boxes}
        assert set(boxes) == {name for name, verdict in line["verdicts"].items() if verdict == "factual"}

    finished = SentencePairWriter.on_caption_finished

    def die(self, trainer, pl_module, caption):
        finished(self, trainer, pl_module, caption)
        if len(self._captions) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(SentencePairWriter, "on_caption_finished", die)
    with pytest.raises(SystemExit):
        predict(scenes, killed)
    assert len(killed.with_suffix(".captions.jsonl").read_text().splitlines()) == 6
    assert not killed.exists()
    monkeypatch.setattr(SentencePairWriter, "on_caption_finished", finished)
    grown = []
    grow = SentenceBootstrap.grow
    monkeypatch.setattr(
        SentenceBootstrap, "grow", lambda self, prompts: (grown.append(len(prompts)), grow(self, prompts))[1]
    )
    predict(scenes, killed)
    assert grown == [0, 4, 4], "the batch that was killed grows as a whole, so that every logit is the same"
    lines = killed.with_suffix(".captions.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["id"] for line in lines}) == 12, "and each picture has one line"
    assert killed.read_bytes() == unbroken.read_bytes()
    assert killed.with_suffix(".report.json").read_bytes() == unbroken.with_suffix(".report.json").read_bytes()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_by_the_kernel_under_another_hash_seed(scenes, tmp_path):
    unbroken, killed = tmp_path / "whole" / "pairs.jsonl", tmp_path / "killed" / "pairs.jsonl"
    predict(scenes, unbroken, "--data.batch_size", "3", "--model.sampling.max_rows", "12")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from pathlib import Path\n"
        "from test_bootstrap import predict\n"
        f"predict(Path({str(scenes)!r}), Path({str(killed)!r}))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=environment, cwd=ROOT)
    ledger = killed.with_suffix(".captions.jsonl")
    while process.poll() is None and not (ledger.exists() and ledger.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not killed.exists(), "the run ended before it could be killed"
    again = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**environment, "PYTHONHASHSEED": "8"}, cwd=ROOT
    )
    assert again.returncode == 0
    assert killed.read_bytes() == unbroken.read_bytes()


def test_captions_of_other_settings_are_not_mixed(scenes, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    predict(scenes, out, "--trainer.limit_predict_batches", "1")
    with pytest.raises(SystemExit):
        predict(scenes, out, "--model.bootstrap.append", "agnostic_first")
    assert "has captions of another policy or other settings" in capsys.readouterr().err


def test_settings_are_those_that_verdicts_depend_on():
    def settings(**options):
        arguments = {"miss": 0.1, "seed": 0} | options
        detectors = [NoisyOracle("truth.jsonl", **arguments), TableDetector({}, vocabulary=["dog"])]
        return SentenceBootstrap(PolicyArgs(path="-"), detectors, seed=0).settings

    assert settings() == settings()
    assert len({settings(), settings(miss=0.2), settings(seed=1)}) == 3
    slow, fast = (Owlv2("owl", batch_size=size, device=device) for size, device in ((1, None), (8, "cpu")))
    assert slow.settings == fast.settings != Owlv2("owl", threshold=0.3).settings


def test_a_picture_that_cannot_be_read_is_skipped_and_counted(scenes, tmp_path, caplog):
    rows = [json.loads(line) for line in (scenes / "scenes.jsonl").read_text().splitlines()]
    for row in rows:
        row["images"] = [str(scenes / row["images"][0])]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:6], {**rows[6], "images": [str(broken)]}]))
    for _ in range(2):  # again: nothing is left to do, and what was skipped still counts
        predict(scenes, tmp_path / "pairs.jsonl", "--data.predict.path", str(table))
        report = json.loads((tmp_path / "pairs.report.json").read_text())
        assert (report["pictures"], report["unreadable_pictures"]) == (6, 1)
    lines = [json.loads(line) for line in (tmp_path / "pairs.captions.jsonl").read_text().splitlines()]
    assert len(lines) == 7
    assert next(line["unreadable"] for line in lines if "unreadable" in line).endswith("remove the row.")


def test_mistakes_are_told_before_any_caption(scenes, tmp_path, capsys, model_dirs):
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(SystemExit):
        predict(scenes, out, "--model.policy.path", model_dirs["student"])
    assert f"--model.policy.path {model_dirs['student']} is a text model, which cannot" in capsys.readouterr().err
    assert not out.with_suffix(".captions.jsonl").exists()
    folder = tmp_path / "broken"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").write_bytes(b"no picture")
    config = tmp_path / "folder.yaml"
    config.write_text(f"data:\n  class_path: datamodules.PictureDataModule\n  init_args: {{folder: {folder}}}\n")
    truth = {"truth": str(scenes / "scenes.jsonl")}
    oracle = {"class_path": "lit_uniopd.hallucination.detectors.NoisyOracle", "init_args": truth}
    with pytest.raises(SystemExit):
        main(
            [
                *["predict", "-c", "configs/sentinel/bootstrap.yaml", "-c", "configs/trainer/cpu.yaml"],
                *["-c", str(config), "--model.policy.path", str(scenes / "captioner")],
                *[f"--model.detectors={json.dumps([oracle])}"],
                *["--trainer.enable_progress_bar", "false", f"--trainer.callbacks.path={out}"],
            ]
        )
    assert (
        "None of 2 pictures could be read; mend --data.predict.path (the first of them: The picture"
        in capsys.readouterr().err
    )


def test_a_folder_of_pictures(scenes, tmp_path):
    out = tmp_path / "pairs.jsonl"
    config = tmp_path / "folder.yaml"
    config.write_text(
        "data:\n  class_path: datamodules.PictureDataModule\n"
        f"  init_args: {{folder: {scenes / 'pictures'}, limit: 6, questions: ['Describe the picture.']}}\n"
    )
    truth = tmp_path / "truth.jsonl"
    lines = [(scenes / name).read_text() for name in ("scenes.jsonl", "heldout_scenes.jsonl")]
    truth.write_text("".join(lines))
    oracle = {"class_path": "lit_uniopd.hallucination.detectors.NoisyOracle", "init_args": {"truth": str(truth)}}
    main(
        [
            *["predict", "-c", "configs/sentinel/bootstrap.yaml", "-c", "configs/trainer/cpu.yaml", "-c", str(config)],
            *["--model.policy.path", str(scenes / "captioner"), f"--model.detectors={json.dumps([oracle])}"],
            *["--model.sampling.max_new_tokens", "24", "--trainer.enable_progress_bar", "false"],
            *["--model.bootstrap.max_sentences", "3", f"--trainer.callbacks.path={out}"],
        ]
    )
    lines = [json.loads(line) for line in out.with_suffix(".captions.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == [f"heldout_scenes-{i}.png" for i in range(6)]


def test_pairs_are_read_with_their_contexts(scenes, tmp_path):
    out = tmp_path / "pairs.jsonl"
    predict(scenes, out)
    data = SentencePairDataModule(train=SentencePairSourceArgs(path=str(out)))
    data.answers = Sentinel(PolicyArgs(path=str(scenes / "captioner")))
    data.setup("fit")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for pair, row in zip(data.train_pairs, rows, strict=True):
        assert pair.pair.prompt.messages[-1] == {
            "role": "assistant",
            "content": [{"type": "text", "text": row["context"]}],
        }
        assert 2 not in pair.chosen_tokens + pair.rejected_tokens, "no token ends a sentence"
    table = tmp_path / "other.jsonl"
    table.write_text("".join(json.dumps({**row, "context": None}) + "\n" for row in rows))
    wrong = SentencePairDataModule(train=SentencePairSourceArgs(path=str(table)))
    wrong.answers = data.answers
    with pytest.raises(
        UserError, match=r"column 'context' must hold the caption so far.*--data\.train\.context_column"
    ):
        wrong.setup("fit")


def test_reports_of_nothing():
    assert bootstrap_report([])["pairs_per_picture"] == 0

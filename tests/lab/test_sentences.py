"""SENTINEL's laboratory: its worlds are kept apart, runs get the pairs of their arm, tables are those of kept runs."""

from pathlib import Path

import pytest

from benchmarks.lab import propagation, sentences, summary_files
from benchmarks.lab.sentences import ARMS, DATA, SEEDS, WORLDS, Run
from lit_uniopd.utils.jsonl import write_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_worlds_have_keys_and_pairs_of_their_own():
    runs = [run for world in WORLDS for run in sentences.runs(world)]
    assert len({run.key for run in runs}) == len(runs) == sum(len(w.arms) for w in WORLDS.values()) * len(SEEDS)
    assert {run.arm for run in runs} == {*ARMS, "decode_time"}
    assert len({sentences.pairs_file(world, name, 1) for world in WORLDS for name in DATA}) == len(WORLDS) * len(DATA)
    assert len({sentences.summaries_of(world) for world in WORLDS}) == len(WORLDS)


def test_a_result_of_a_world_as_it_was_is_not_taken(monkeypatch):
    before = Run("cdpo", 1, "correlated").key
    monkeypatch.setitem(WORLDS, "correlated", WORLDS["propagating"])
    assert Run("cdpo", 1, "correlated").key != before


def test_arms_of_a_world_have_equally_many_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "ROOT", tmp_path)
    rows = [{"id": f"{picture}#{number}", "sentence": number} for picture in range(400) for number in range(6)]
    for name in ("paper", "from_sentence_4"):
        kept = [row for row in rows if name == "paper" or row["sentence"] >= 3]
        write_lines(sentences.pairs_file("propagating", name, 1), kept)
        write_lines(sentences.pairs_file("couples", name, 1), kept)
    early, late = (sentences.rows_of(Run(arm, 1, "propagating")) for arm in ("to_sentence_2", "from_sentence_4"))
    assert len(early) == len(late) == WORLDS["propagating"].pairs
    assert {row["sentence"] for row in early} == {0, 1}
    assert {row["sentence"] for row in late} == {3, 4, 5}
    assert len(sentences.rows_of(Run("cdpo", 1))) == len(rows)
    assert len(sentences.rows_of(Run("pairs_250", 1))) == 250


def test_shares_of_hallucinated_sentences_by_hand():
    text = "There is a dog. Beside the dog is a cat. Beside the cat is a small car. Beside the dog is a cup."
    assert propagation.hallucinates(text, ["dog", "cup"]) == [False, True, True, False]
    clean = "There is a dog. Beside the dog is a cup. Beside the cup is a bus."
    shares = propagation.rates([(text, ["dog", "cup"]), (clean, ["dog", "cup"])])
    # After a hallucinated one: the car, not the cup. After a factual one: the cat, not the cup, the bus.
    assert list(shares.values()) == pytest.approx([1 / 2, 2 / 3, 1 / 2, 2 / 3])


def result(chair: float) -> dict:
    scores = {"chair_i": chair, "chair_s": chair, "recall": 0.5, "mentions": 4.0, "words": 20.0}
    return {"before": {"greedy": scores | {"chair_i": 0.4}}, "after": {"greedy": scores}}


def test_tables_have_the_arms_that_ran_on_every_seed(monkeypatch):
    monkeypatch.setattr(sentences, "DECODINGS", ("greedy",))
    results = {("cdpo", seed): result(0.1) for seed in SEEDS}
    results |= {("natural_context", seed): result(0.2 + seed / 100) for seed in SEEDS}
    results |= {("decode_time", seed): result(0.3) for seed in SEEDS[1:]}
    rows = [row.split(" | ") for row in sentences.tables("propagating", results)["greedy"].splitlines()[2:]]
    assert [row[0] for row in rows] == ["| `base`", "| `cdpo`", "| `natural_context`"]
    # Of .4, .1 is left; the mean of .21 to .25 is .13 above it, with a standard error of .0158 / sqrt(5) and t of 2.776.
    assert rows[1][4] == "75%"
    assert rows[2][3:6] == ["23.0% (sd 1.6%)", "42%", "**+0.130** ± 0.020"]
    assert not sentences.tables("propagating", {key: run for key, run in results.items() if key != ("cdpo", 1)})


@pytest.mark.parametrize("world", [world for world in WORLDS if world != sentences.COUPLES])
def test_the_tables_of_the_page_are_those_of_the_kept_summaries(world):
    runs = {(run["arm"], run["seed"]): run for run in summary_files.read(sentences.summaries_of(world))}
    page, filled = sentences.PAGE.read_text(), sentences.tables(world, runs)
    for decoding in sentences.DECODINGS:
        name = f"{world} {decoding}"
        shown = page.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0].strip()
        assert shown == filled.get(decoding, "Not run yet.")

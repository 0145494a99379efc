"""Read back what a run has left in each kind of logger, in one form."""

import csv
import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Steps = dict[str, set[int]]


@dataclass
class LoggedRun:
    """By tag."""

    scalars: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    texts: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """Tables too."""
    images: Steps = field(default_factory=lambda: defaultdict(set))
    histograms: Steps = field(default_factory=lambda: defaultdict(set))
    settings: dict[str, Any] = field(default_factory=dict)


def read_tensorboard(directory: Path | str) -> LoggedRun:
    run, events = (
        LoggedRun(),
        EventAccumulator(str(directory), dict.fromkeys(("tensors", "images", "scalars", "histograms"), 0)).Reload(),
    )
    tags: Any = events.Tags()
    for tag in tags["scalars"]:
        run.scalars[tag] = {event.step: event.value for event in events.Scalars(tag)}
    for tag in tags["images"]:
        run.images[tag] = {event.step for event in events.Images(tag)}
    for tag in tags["histograms"]:
        run.histograms[tag] = {event.step for event in events.Histograms(tag)}
    for tag in (tag for tag in tags["tensors"] if tag.endswith("/text_summary")):
        texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}
        run.texts[tag.removesuffix("/text_summary")] = texts
    return run


def read_wandb(directory: Path) -> LoggedRun:
    """From the file that an offline run keeps for `wandb sync`, and the media beside it."""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while not ((records := list(_wandb_records(file))) and records[-1].HasField("exit")):
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.1)  # W&B's own process writes it (at first nothing), and ends a little later than `finish`
    run = LoggedRun()
    for record in records:
        for item in record.config.update:
            run.settings[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        row: dict[str, Any] = {}
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            if inner:
                row.setdefault(name, {})[inner[0]] = json.loads(item.value_json)
            else:
                row[name] = json.loads(item.value_json)
        if "trainer/global_step" in row:
            _add_wandb_row(run, row, file.parent / "files")
    return run


def _add_wandb_row(run: LoggedRun, row: dict[str, Any], files: Path) -> None:
    step = row.pop("trainer/global_step")
    for tag, value in row.items():
        kind = _kind(value)
        if kind == "scalar" and not tag.startswith("_"):
            run.scalars[tag][step] = float(value)
        elif kind == "html-file":
            run.texts[tag][step] = (files / value["path"]).read_text()
        elif kind == "table-file":
            run.texts[tag.removesuffix("_table")][step] = (files / value["path"]).read_text()
        elif kind == "image-file":
            assert (files / value["path"]).stat().st_size > 0
            run.images[tag].add(step)
        elif kind == "histogram":
            run.histograms[tag].add(step)


def _kind(value: Any) -> str:
    """Of W&B's and Trackio's values."""
    return value["_type"] if isinstance(value, dict) else "scalar"


def _wandb_records(file: Path) -> Iterator[Any]:
    """LevelDB's log format: blocks of 32 KiB; chunks with a checksum, a length and a kind (1 whole, 4 the last)."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield messages.Record.FromString(record)
            record = b""


def read_mlflow(uri: str, run_id: str) -> LoggedRun:
    from mlflow.tracking import MlflowClient

    client, run = MlflowClient(uri), LoggedRun()
    data = client.get_run(run_id).data
    run.settings = dict(data.params)
    for tag in data.metrics:
        run.scalars[tag] = {metric.step: metric.value for metric in client.get_metric_history(run_id, tag)}
    root = Path(client.download_artifacts(run_id, ""))
    for file in root.glob("media/**/*.md"):
        run.texts[file.parent.relative_to(root / "media").as_posix()][int(file.stem)] = file.read_text()
    for file in root.glob("images/*.png"):
        tag, _, step, *_ = file.name.split("+")
        run.images[tag.replace("~", "/")].add(int(step))
    return run


def read_trackio(project: str, name: str) -> LoggedRun:
    import trackio  # pyright: ignore[reportMissingImports]
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]
    from trackio.utils import MEDIA_DIR  # pyright: ignore[reportMissingImports]

    run = LoggedRun()
    (record,) = [record for record in trackio.Api().runs(project) if record.name == name]
    run.settings = record.config
    for row in SQLiteStorage.get_logs(project, name):
        step = row["step"]
        for tag, value in row.items():
            kind = _kind(value)
            if kind == "scalar" and tag not in ("step", "timestamp"):
                run.scalars[tag][step] = float(value)
            elif kind == "trackio.markdown":
                run.texts[tag][step] = value["_value"]
            elif kind == "trackio.table":
                run.texts[tag.removesuffix("_table")][step] = json.dumps(value["_value"])
            elif kind == "trackio.image":
                assert (MEDIA_DIR / value["file_path"]).stat().st_size > 0
                run.images[tag].add(step)
            elif kind == "trackio.histogram":
                run.histograms[tag].add(step)
    return run


def read_folder(directory: Path, metrics: Path | None = None) -> LoggedRun:
    """Files of media, and the table of scalars of Lightning's `CSVLogger` if there is one."""
    run = LoggedRun()
    for file in directory.rglob("*.md"):
        run.texts[file.parent.relative_to(directory).as_posix()][int(file.stem)] = file.read_text()
    for file in directory.rglob("*.png"):
        run.images[file.parent.relative_to(directory).as_posix()].add(int(file.stem))
    for row in csv.DictReader(metrics.read_text().splitlines()) if metrics else ():
        for tag, value in row.items():
            if value and tag != "step":
                run.scalars[tag][int(row["step"])] = float(value)
    return run

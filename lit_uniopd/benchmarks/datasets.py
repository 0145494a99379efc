"""The rows of a benchmark in the schema of the hub: bundled ones, local files, or the hub itself."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.spec import BenchmarkSpec, ProfileName
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.jsonl import numbered_lines
from lit_uniopd.utils.paths import has_scheme, resolve_path
from lit_uniopd.utils.strict_json import parse_json

log = logging.getLogger(__name__)

Row = dict[str, Any]
LOCAL = (".jsonl", ".json", ".parquet")
"""Endings of files that are read without the hub."""


def read_rows(spec: BenchmarkSpec, profile: ProfileName) -> list[Row]:
    """All rows of a benchmark.

    Args:
        spec: says where they are.
        profile: ``fixture`` reads the bundled rows.

    Raises:
        UserError: if they cannot be read.
    """
    if profile == "fixture":
        return fixture_rows(spec)
    if has_scheme(spec.hub.id):
        return list(_json_lines(Path(resolve_path(f"{spec.hub.id}.jsonl"))))
    if spec.hub.id.endswith(LOCAL):
        return _local_rows(spec)
    rows = hub_rows(spec)
    if spec.size is not None and len(rows) != spec.size:
        log.warning(
            "%s has %d rows, where its spec expects %d: the data set has changed, or the wrong split is read.",
            spec.key,
            len(rows),
            spec.size,
        )
    return rows


def folder_of(spec: BenchmarkSpec) -> Path:
    """Where paths of pictures start from: the folder of a local file of rows, else the working directory."""
    if has_scheme(spec.hub.id):
        return Path(resolve_path(f"{spec.hub.id}.jsonl")).parent
    return Path(spec.hub.id).expanduser().parent if spec.hub.id.endswith(LOCAL) else Path()


def fixture_rows(spec: BenchmarkSpec) -> list[Row]:
    """The bundled rows, their pictures drawn.

    Raises:
        UserError: if there are none.
    """
    if spec.fixture is None:
        raise UserError(
            f"Benchmark {spec.key} has no bundled rows; choose another --data.profile than fixture, or check it with "
            "--online."
        )
    return [_draw_cells(row) for row in _json_lines(Path(spec.fixture))]


def hub_rows(spec: BenchmarkSpec, limit: int | None = None) -> list[Row]:
    """Rows from the hub, from the first of its ids that answers.

    Args:
        spec: names data set, configuration, split and revision.
        limit: only so many rows, streamed.

    Raises:
        UserError: if none of the ids answers.
    """
    import datasets

    failures = []
    for name in (spec.hub.id, *spec.hub.fallbacks):
        # Ids of raw files are read by the json builder, which runs no code of the repository.
        files = f"hf://datasets/{name}{'@' + spec.hub.revision if spec.hub.revision else ''}/{spec.hub.files}"
        source: dict[str, Any] = (
            {"path": "json", "data_files": files, "split": "train"}
            if spec.hub.files
            else {"path": name, "name": spec.hub.config, "split": spec.hub.split, "revision": spec.hub.revision}
        )
        try:
            loaded: Any = with_undecoded_pictures(datasets.load_dataset(**source, streaming=limit is not None))
            return [dict(row) for row in (loaded if limit is None else loaded.take(limit))]
        except Exception as error:  # the hub, the network and the builders fail in many ways, all of them the user's
            failures.append(f"{name}: {first_line(error)[:200]}")
    raise UserError(
        f"Benchmark {spec.key} cannot be loaded from the hub ({'; '.join(failures)}); check the network, HF_HOME for a "
        "copy, or run --data.profile fixture."
    )


def with_undecoded_pictures(loaded: Any) -> Any:
    """A data set whose rows hold the files of pictures, not their pixels: thousands of those do not fit in memory."""
    import datasets

    for name, feature in (getattr(loaded, "features", None) or {}).items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(name, datasets.Image(decode=False))
    return loaded


def _local_rows(spec: BenchmarkSpec) -> list[Row]:
    path = Path(spec.hub.id).expanduser()
    if not path.is_file():
        source = f" ({spec.source.rstrip('.')})" if spec.source else ""
        raise UserError(f"Benchmark {spec.key} reads {path}, which does not exist; put it there{source}.")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        rows = parse_json(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(rows, list):
            raise UserError(f"{path} must hold a list of rows.")
        return rows
    return list(_json_lines(path))


def _json_lines(path: Path) -> Iterator[Row]:
    try:
        for number, line in numbered_lines(path):
            yield parse_json(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable.") from error


def _draw_cells(value: Any) -> Any:
    """Replace cells that describe a drawing by the picture."""
    if isinstance(value, list):
        return [_draw_cells(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "drawing" in value:
        from lit_uniopd.benchmarks.synthetic_images import draw

        return draw(value)
    return {key: _draw_cells(item) for key, item in value.items()}

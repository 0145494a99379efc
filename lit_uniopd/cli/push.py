"""A run as a repository of the hub: the exported weights with a model card and the run's figures."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lit_uniopd.cli.export import export_run, run_config
from lit_uniopd.cli.model_card import FIGURES, model_card, read_facts
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.checkpoint_directory import newest_checkpoint

CARD = "README.md"


def push_run(
    source: Path,
    repository: str,
    *,
    dry_run: Path | None = None,
    private: bool = False,
    licence: str | None = None,
    config: Path | None = None,
    adapter: bool = False,
    extrapolation: float = 0.0,
    **others: str | None,
) -> str:
    """Export what a run trained, describe it, and send it to the hub.

    Args:
        source: a checkpoint or the directory of a run.
        repository: OWNER/NAME on the hub.
        dry_run: where to write what would be sent. None: it is sent.
        private: whether a new repository is private.
        licence: of the weights, for the card.
        config: as ``export_run`` has it, and so have the following.
        adapter: the LoRA adapter alone.
        extrapolation: how far to go beyond the trained weights.
        others: further options of ``export_run``.

    Returns:
        Where it is now: the directory, or the address of the commit.

    Raises:
        UserError: if the run cannot be exported, or the hub does not take it.
    """
    check_repository(repository)
    checkpoint = newest_checkpoint(source)
    config = run_config(checkpoint, config)
    facts, api = read_facts(config), HfApi()
    if dry_run is None:  # before minutes of export, and after all that can be seen without a model
        with _hub_errors(repository):
            api.create_repo(repository, private=private or None, exist_ok=True)
    with TemporaryDirectory() as scratch:
        directory = dry_run or Path(scratch) / "repository"
        options: dict[str, Any] = {"adapter": adapter, "extrapolation": extrapolation, **others}
        exported = export_run(checkpoint, directory, config=config, **options)
        card = model_card(facts, exported, repository, adapter=adapter, extrapolation=extrapolation, licence=licence)
        for figure in facts.figures:
            (directory / FIGURES).mkdir(exist_ok=True)
            shutil.copy(figure, directory / FIGURES)
        card.save(directory / CARD)
        if dry_run is not None:
            return str(dry_run)
        message = f"{exported.steps} steps of {facts.objective}"
        with _hub_errors(repository):
            return str(api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message))


def check_repository(repository: str) -> None:
    """Check the form of a repository's name.

    Raises:
        UserError: if it is not OWNER/NAME.
    """
    reason = "" if repository.count("/") == 1 else "it has no owner"
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = first_line(error)
    if reason:
        raise UserError(f"uniopd push: {repository!r} is no name on the hub ({reason}); give OWNER/NAME.")


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """One sentence for what the hub's client raises, which are errors of whichever HTTP library its version uses."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"The hub did not take {repository} ({type(error).__name__}: {first_line(error)[:200]}); check the "
            "network, HF_TOKEN or `hf auth login`, and that you may write there, or write a directory by --dry_run."
        ) from error

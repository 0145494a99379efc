"""A folder of pictures, each with a question: where SENTINEL's bootstrapping begins."""

import random
from pathlib import Path
from typing import Any

from datamodules.loaders import StreamDataModule, at_least_one
from datamodules.picture_folder import SUFFIXES
from lit_uniopd.errors import UserError
from lit_uniopd.types import Prompt, PromptBatch
from lit_uniopd.utils.seeding import run_seed
from lit_uniopd.utils.strict_json import half_character

QUESTION = "Describe this image in detail."


class PictureDataModule(StreamDataModule):
    """Every picture below a folder, with a question, for `uniopd predict`.

    Pictures with questions of their own are rows of a table: use ``PromptDataModule`` then.

    Args:
        folder: Where the pictures are, subfolders included.
        questions: One is drawn for each picture. Default: "Describe this image in detail."
        limit: So many pictures, in the order of their paths. Default: all.
        batch_size: Pictures that are captioned side by side.
        seed: Of the draw of questions. Default: that of --seed_everything.

    Attributes:
        predict_prompts: after ``setup``, one for each picture; its id is the path below the folder.
    """

    def __init__(
        self,
        folder: str,
        questions: list[str] | None = None,
        limit: int | None = None,
        batch_size: int = 16,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        at_least_one(batch_size=batch_size, limit=limit)
        if questions is not None and not all(questions or [""]):
            raise UserError("--data.questions must hold at least one question, and no empty one.")
        self.folder, self.questions, self.limit = Path(folder).expanduser(), questions or [QUESTION], limit
        self.batch_size, self.seed = batch_size, run_seed(seed)
        self.predict_prompts: list[Prompt] = []

    def setup(self, stage: str | None = None) -> None:
        """Find the pictures.

        Raises:
            UserError: if there is no such folder, no picture in it, or one whose name no file of results could hold.
        """
        if not self.folder.is_dir():
            raise UserError(f"--data.folder {self.folder} is no folder; give one with pictures in it.")
        files = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            raise UserError(f"--data.folder {self.folder} has no pictures; give one with {', '.join(SUFFIXES)} files.")
        if unreadable := [file for file in files if half_character(str(file))]:
            raise UserError(
                f"--data.folder has a picture whose name is not UTF-8, {str(unreadable[0])!a}; change its name."
            )
        self.predict_prompts = [self._prompt(path) for path in files[: self.limit]]

    def predict_dataloader(self) -> Any:
        """Each picture once."""
        return self.evaluation_loader(self.predict_prompts, self.batch_size, PromptBatch)

    def _prompt(self, path: Path) -> Prompt:
        name = path.relative_to(self.folder).as_posix()
        question = random.Random(f"{self.seed} {name}").choice(self.questions)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return Prompt(id=name, messages=({"role": "user", "content": content},), images=(str(path),), domain="pictures")

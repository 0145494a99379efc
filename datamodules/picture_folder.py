"""Pictures of rows that name them by number, or by a path of another machine."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from datamodules.tables import TableArgs
from lit_uniopd.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class PictureFolder:
    """A folder in which pictures are found by a path, by the last part of one, or by a name without an ending.

    Args:
        folder: where they are; subfolders are included.
        flag: the option of the source that names it, for messages.

    Raises:
        UserError: if there is no such folder.
    """

    def __init__(self, folder: Path, flag: str) -> None:
        if not folder.is_dir():
            raise UserError(f"{flag}.image_folder {folder} is no folder; give the one that the pictures are in.")
        self.folder, self.flag = folder, flag

    @classmethod
    def of(cls, table: TableArgs, flag: str) -> "PictureFolder | None":
        """The folder that a source names."""
        folder = table.image_folder
        return None if folder is None else cls(Path(folder).expanduser(), flag)

    def find(self, reference: str, where: str) -> str:
        """The file of a picture.

        Args:
            reference: what a row says.
            where: the row, for messages.

        Raises:
            UserError: if there is none, or more than one.
        """
        direct = self.folder / Path(reference).expanduser()
        if direct.is_file():
            return str(direct)
        files = self._files.get(Path(reference).name, ())
        if len(files) != 1:
            has = f"has {len(files)} pictures" if files else "has no picture"
            raise UserError(
                f"{where}: {self.flag}.image_folder {self.folder} {has} {Path(reference).name!r}; put it there, name "
                "another folder, or remove the row."
            )
        return str(self.folder / files[0])

    @cached_property
    def _files(self) -> Mapping[str, tuple[str, ...]]:
        """Name of a picture, with and without its ending -> its paths below the folder."""
        files: dict[str, tuple[str, ...]] = {}
        for folder, _, names in os.walk(self.folder):
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    path = os.path.relpath(os.path.join(folder, name), self.folder)
                    for key in {name, stem}:
                        files[key] = (*files.get(key, ()), path)
        return files

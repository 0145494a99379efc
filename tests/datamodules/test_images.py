import os
from pathlib import Path

import pytest
from PIL import Image

from datamodules import PictureDataModule
from lit_uniopd.errors import UserError


def test_a_name_that_no_file_of_results_could_hold_is_refused(tmp_path: Path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    data = PictureDataModule(str(tmp_path))
    data.setup()
    assert [prompt.id for prompt in data.predict_prompts] == ["a.png"]
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    with pytest.raises(
        UserError, match=r"--data.folder has a picture whose name is not UTF-8, .*\\udcff\.png'; change its name"
    ):
        data.setup()

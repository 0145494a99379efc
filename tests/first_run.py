"""The first command of the README, run once for all tests that look at what it leaves behind."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class FirstRun:
    """`uniopd fit -c configs/quickstart.yaml` in a directory that was empty."""

    directory: str
    returncode: int
    stdout: str
    stderr: str

    @property
    def playground(self) -> Path:
        """The models and prompts that it has made on its way."""
        assert self.returncode == 0, self.stderr[-3000:]
        return Path(self.directory) / "runs/playground"

    def lend_playground(self, directory: Path) -> None:
        """Give another working directory the same playground."""
        (directory / "runs").mkdir()
        (directory / "runs/playground").symlink_to(self.playground)


def first_run(directory: Path) -> FirstRun:
    """The run in this directory, or what it came to if it is over."""
    record = directory / "first_run.json"
    if not record.exists():
        work = directory / "first_run"
        work.mkdir()
        command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/quickstart.yaml")]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=900)
        record.write_text(json.dumps(asdict(FirstRun(str(work), done.returncode, done.stdout, done.stderr))))
    return FirstRun(**json.loads(record.read_text()))

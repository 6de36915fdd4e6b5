"""A command of the training wing says in a line which extra is missing, before it imports anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "training").rglob("*.py")
    if path.name == "__main__.py" or 'if __name__ == "__main__":' in path.read_text()
)
WITHOUT_LIGHTNING = """
import runpy, sys
sys.modules["lightning"] = None  # as if it were not installed
sys.argv = [sys.argv[1], "--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_commands_are_found():
    assert {Path("training/distill.py"), Path("training/data/convert/__main__.py")} < set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_missing_package_ends_a_command_with_the_extra_that_has_it(command):
    pytest.importorskip("torch", reason="it would be named first")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIGHTNING, str(command)], capture_output=True, text=True, cwd=ROOT
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no module lightning: training needs its extra: pip install -e '.[training")
    assert result.stderr.count("\n") == 1

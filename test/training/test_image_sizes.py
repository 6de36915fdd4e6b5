"""Sizes in recipes name their sides; those of older recipes and of command lines mean the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training import distill
from transkd_ros.cli import CommandError

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")]
RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"
LIGHT = ["--config", str(RECIPES / "camvid_light.yaml")]


def options(value: Any) -> Iterator[tuple[str, Any]]:
    """Every option below a recipe's value, by the last part of its name."""
    for it in value if isinstance(value, list) else [value]:
        for name, inner in it.items() if isinstance(it, dict) else ():
            yield str(name).rpartition(".")[2], inner
            yield from options(inner)


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: str(file.relative_to(RECIPES)))
def test_a_shipped_recipe_names_the_sides_of_its_sizes(file):
    found = [value for name, value in options(yaml.safe_load(file.read_text())) if name in ("crop", "val_size")]
    assert all(isinstance(value, dict) and value.keys() == {"width", "height"} for value in found)


@pytest.mark.parametrize("written", ["{width: 96, height: 64}", "[64, 96]", "96x64"])
def test_a_recipe_and_a_command_line_may_write_a_size_in_several_ways(tmp_path, written):
    (tmp_path / "mine.yaml").write_text(f"base: {RECIPES}/base/camvid.yaml\ndata: {{init_args: {{crop: {written}}}}}")
    for args in (["--config", str(tmp_path / "mine.yaml")], [*LIGHT, f"--data.crop={written}"]):
        assert distill.settings_of(args)["data.init_args.crop"] == (64, 96)


@pytest.mark.parametrize(
    ("written", "said"),
    [("96", "96 is not WIDTHxHEIGHT, e.g. 640x480"), ("{width: 96}", "{'width': 96} is not {width: …, height: …}")],
)
def test_what_is_no_size_ends_in_a_line_that_names_the_option(written, said):
    with pytest.raises(CommandError) as refused:
        distill.settings_of([*LIGHT, f"--data.crop={written}"])
    assert str(refused.value).startswith(f"crop: {said}")

"""Recipes: what a base gives, and what earlier versions wrote keeps its meaning."""

from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training import distill  # noqa: E402
from training.distillers import TransKD  # noqa: E402
from training.recipe import read_recipe  # noqa: E402
from training.suite.file import read_suite  # noqa: E402
from training.trained import read_checkpoint  # noqa: E402
from transkd_ros.cli import CommandError  # noqa: E402

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter"),
]
RECIPES = Path(__file__).parents[2] / "config" / "recipes"


def test_a_recipe_is_laid_over_its_base_key_by_key_and_bases_chain(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "deep.yaml").write_text("a: {b: 1, c: [1, 2], d: 1}")
    (tmp_path / "base" / "near.yaml").write_text("base: deep.yaml\na: {b: 2}")  # from its own folder
    found = read_recipe("base: base/near.yaml\na: {c: [3]}\ne: null", tmp_path)
    assert found == {"a": {"b": 2, "c": [3], "d": 1}, "e": None}


def test_a_text_without_a_base_is_read_as_it_is(tmp_path):
    assert read_recipe("lr: 1.0e-3", tmp_path) == {"lr": 0.001}


def test_a_recipe_elsewhere_takes_a_shipped_base_and_is_changed_from_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"base: {RECIPES}/base/camvid.yaml\nmodel: {{lr: 0.5}}")
    settings = distill.settings_of(["--config", str(tmp_path / "mine.yaml"), "--data.scenes", "3"])
    shown = ("model.lr", "model.encoder", "data.init_args.crop", "data.init_args.scenes")
    assert [settings[name] for name in shown] == [0.5, "mit_b0", (256, 320), 3]


@pytest.mark.parametrize(
    ("text", "named"),
    [("base: nowhere.yaml", r"mine\.yaml: nowhere\.yaml: No such file"), ("a: [", r"mine\.yaml: .*expected")],
)
def test_a_base_that_is_not_there_and_what_is_no_yaml_end_in_one_line(tmp_path, text, named):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(CommandError, match=named) as refused:
        distill.settings_of(["--config", str(tmp_path / "mine.yaml")])
    assert "\n" not in str(refused.value)


# What earlier versions wrote

OLD_RECIPE = """
seed_everything: 1
model:
  architecture: segformer
  encoder: mit_b0
  labels: camvid
  distiller:
    class_path: SKRPEA
  teacher:
    source: {teacher}
    precision: bf16
  lr: 1.0e-3
  weight_decay: 0.01
  warmup_steps: 200
data:
  class_path: training.data.camvid.CamVid
  init_args:
    root: {root}
    crop: [64, 64]
    zoom: [0.15, 1.0]
    val_size: [64, 96]
    batch_size: 2
    scenes: 0
    workers: 0
trainer:
  default_root_dir: runs/camvid_skr_pea
  max_epochs: 44
  precision: bf16-mixed
  accelerator: cpu
"""


def test_an_old_recipe_in_one_piece_with_the_old_name_of_a_method_still_trains(
    tmp_path, shared_scene_tree, random_teacher
):
    path = tmp_path / "old.yaml"
    path.write_text(OLD_RECIPE.format(teacher=random_teacher("mit_b1"), root=shared_scene_tree))
    command = distill.command_of(["--config", str(path), "--trainer.fast_dev_run", "1"])
    assert isinstance(command.model.distiller, TransKD)
    assert command.model.distiller.patch_weights == (1, 1, 1, 1)
    distill.fit(command)
    assert command.trainer.global_step == 1


OLD_SUITE = """
title: Distillation methods on CamVid val
output: {folder}/methods
folder: {folder}/runs
seeds: [1]
overrides:
  trainer.max_epochs: 16
teachers:
  MiT-B2:
    recipe: {recipes}/camvid_teacher.yaml
    run: {folder}/camvid_teacher
student:
  method: labels only
  recipe: {recipes}/camvid_mit_b0.yaml
methods:
  - method: SKR+PEA
    recipe: {recipes}/camvid_skr_pea.yaml
    teacher: MiT-B2
    options: {options}
notes: []
"""


@pytest.mark.parametrize("options", ["{trainer.check_val_every_n_epoch: 1}", "{}"])
def test_an_old_suite_file_is_read_and_says_what_to_write_where_its_runs_differ(tmp_path, options):
    path = tmp_path / "suite.yaml"
    path.write_text(OLD_SUITE.format(folder=tmp_path, recipes=RECIPES, options=options))
    suite = read_suite(path)
    if options != "{}":
        assert suite.check().differences == []
    else:
        with pytest.raises(CommandError, match=r"check_val_every_n_epoch is 2 and 1; make them equal, or write"):
            suite.check()


def test_an_old_checkpoint_knows_nothing_of_what_a_network_gained_since(tmp_path, random_teacher):
    checkpoint = torch.load(random_teacher("mit_b1"), weights_only=True)
    checkpoint["hyper_parameters"] |= {"encoder_weights": None, "class_weights": None, "warmup_steps": 200, "seed": 1}
    torch.save(checkpoint, tmp_path / "old.ckpt")
    trained = read_checkpoint(tmp_path / "old.ckpt")
    assert (trained.spec.output_stride, trained.spec.front_groups) == (None, 1)
    assert trained.settings["warmup_steps"] == 200


def test_the_fusion_of_an_old_checkpoint_has_the_names_of_todays():
    """A run that was interrupted before the walk was one class goes on."""
    from training.taps import Widths

    distiller = TransKD()
    distiller.build(Widths(11, (32, 64), (32, 64)), Widths(11, (64, 128), (64, 128)))
    names = set(distiller.state_dict())
    assert {"fusion.stages.0.reduce.0.weight", "fusion.stages.0.select.squeeze.0.weight"} <= names
    assert {"fusion.stages.0.select.heads.bias", "fusion.stages.1.expand.1.running_var"} <= names


def test_no_recipe_repeats_what_its_base_says():
    for path in RECIPES.glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text())
        if "base" in recipe:
            base = read_recipe((RECIPES / recipe["base"]).read_text(), (RECIPES / recipe["base"]).parent)
            assert list(repeated(recipe, base)) == [], path.name


def repeated(recipe, base, name=""):
    """The options that say again what the base says."""
    for key, value in recipe.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            yield from repeated(value, base[key], f"{name}{key}.")
        elif key in base and base[key] == value:
            yield f"{name}{key}"

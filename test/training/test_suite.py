"""A suite of methods: which runs it makes, resumes and refuses, and what its table says of them."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training import compare, distill  # noqa: E402
from training.suite import steps  # noqa: E402
from training.suite.file import altered, read_suite  # noqa: E402
from training.suite.page import page, spread, summarise  # noqa: E402
from training.suite.plan import Budget, Difference, Method, Suite, TeacherRun  # noqa: E402
from training.suite.plot import picture  # noqa: E402
from training.suite.record import read_run, recovered  # noqa: E402
from transkd_ros import sizes  # noqa: E402
from transkd_ros.cli import CommandError  # noqa: E402
from transkd_ros.reports.machine import machine  # noqa: E402

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter"),
]
RECIPES = Path(__file__).parents[2] / "config" / "recipes"


def a_run(miou, **changes):
    return {
        "name": "a run", "method": "CWD", "network": "segformer mit_b0", "teacher": "some.ckpt", "val_miou": miou,
        "val_iou": {"road": miou + 0.1, "pole": miou - 0.1}, "epochs": 3, "steps": 30, "seed": 1, "wall_seconds": 120,
        "parameters": 3_700_000, "macs": 10**9, "macs_at": {"width": 320, "height": 256}, "precision": "bf16-mixed",
        "machine": {"cpu": "some CPU", "cpus": 2}, **changes,
    }  # fmt: skip


def a_suite(**changes):
    """Two methods under a teacher each, with two seeds."""
    methods = [Method("CWD", Path("c.yaml"), "near"), Method("SD", Path("s.yaml"), "far")]
    teachers = {name: TeacherRun(Path("t.yaml"), Path(name)) for name in ("near", "far")}
    suite = Suite("A title", Path("out"), Path("runs"), Method("alone", Path("a.yaml")), teachers, methods, [1, 2])
    return replace(suite, **changes)


BUDGET = Budget({"model.lr": 0.001}, [Difference("SD", "model.lr", 0.1, 0.001, "another optimiser")])
STEPS = {
    "ratio": {"alone": 1.0, "CWD": 1.25},
    "training_only": {"CWD": {"parameters": 5000, "macs": 2 * 10**9}},
    "crop": {"width": 320, "height": 256},
    "batch": 8,
    "steps": 12,
    "machine": {"cpu": "some CPU", "cpus": 2},
}


def test_a_table_over_two_seeds_is_that_worked_out_by_hand():
    runs = {("alone", 1): a_run(0.40), ("alone", 2): a_run(0.44)}
    newer = {"val_high_precision_accuracy": 0.7}
    runs |= {("CWD", 1): a_run(0.50, **newer), ("CWD", 2): a_run(0.56, **newer)}
    older = {"macs_at": [256, 320]}  # height and width
    teachers = {"near": a_run(0.60, macs=4 * 10**9, same_data=True, **older)}
    result = summarise(a_suite(), BUDGET, runs, teachers, STEPS, {})

    shares = [run["gap_recovered"] for run in result["runs"]]
    assert shares == [None, None, pytest.approx(0.10 / 0.20), pytest.approx(0.12 / 0.16)]
    assert [(run["method"], run["seed"], run["step_cost_ratio"]) for run in result["runs"]] == [
        ("alone", 1, 1.0), ("alone", 2, 1.0), ("CWD", 1, 1.25), ("CWD", 2, 1.25)
    ]  # fmt: skip
    alone, cwd, unmade = result["methods"]
    assert cwd["val_miou"] == {"mean": pytest.approx(0.53), "std": pytest.approx(0.03 * 2**0.5)}
    assert cwd["gap_recovered"] == {"mean": pytest.approx(0.625), "std": pytest.approx(0.125 * 2**0.5)}
    assert cwd["val_iou"] == {"road": pytest.approx(0.63), "pole": pytest.approx(0.43)}
    assert (cwd["macs_of_teacher"], alone["gap_recovered"], unmade["val_miou"]) == (0.25, None, None)

    lines = page(a_suite(), result, "command", "out.png").splitlines()
    assert "| alone | – | – | 42.00 ± 2.83% | – | 1.00× | – | – | – | 2 |" in lines
    assert "| CWD | near | 60.00% | 53.00 ± 4.24% | 62.5 ± 17.7% | 1.25× | 0.005 M | 2.00 | – | 2 |" in lines
    assert "| SD | far | – | – | – | – | – | – | – | – |" in lines
    assert "| CWD | – | 70.00 ± 0.00% | – | 3.70 M | 1.00 | 25.0% |" in lines
    assert "| pole | 50.0% | 32.0% | 43.0% |" in lines
    assert "- Not run, cells left empty: SD." in lines
    assert "- **SD differs** in `model.lr`, 0.1 instead of 0.001: another optimiser." in lines
    assert "lr 0.001, " in next(line for line in lines if line.startswith("Equal in all runs"))


def test_the_student_alone_has_the_time_of_each_method():
    suite = a_suite(seeds=[1], equal_time=True)
    budget = Budget({"trainer.max_epochs": 8}, [])
    measured = STEPS | {"ms": {"alone": 100.0, "CWD": 137.0}}  # the teacher of SD is not there
    controls = suite.controls(budget, measured)
    assert {method: control.method for method, control in controls.items()} == {"CWD": "alone for 11 epochs"}
    arguments = suite.run(controls["CWD"], 1).arguments
    assert "--trainer.max_epochs=11" in arguments
    assert "--trainer.default_root_dir=runs/alone_for_11_epochs-seed1" in arguments
    assert suite.controls(budget, STEPS | {"ms": {"alone": 100.0, "CWD": 104.0}}) == {"CWD": suite.student}
    assert a_suite().controls(budget, measured) == suite.controls(budget, None) == {}

    runs = {("alone", 1): a_run(0.4), ("CWD", 1): a_run(0.5)}
    result = summarise(suite, budget, runs, {}, measured, {}, {"CWD": [a_run(0.45, epochs=11)]})
    lines = page(suite, result, "command", "out.png").splitlines()
    assert "| method | teacher | teacher mIoU | val mIoU | alone in that time | gap recovered |" in "\n".join(lines)
    assert any(line.startswith("| CWD | near | – | 50.00% | 45.00% (11 epochs) |") for line in lines)
    assert any(line.startswith("| alone | – | – | 40.00% | – |") for line in lines)


def test_a_control_of_another_budget_is_refused_like_any_other_run(suite_file):
    suite = read_suite(suite_file)
    control = suite._alone_for(3)
    suite.check_runs(control)
    folder = suite.run(control, 1).folder
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(a_run(0.9)))
    (folder / "config.yaml").write_text(recipe_anywhere("camvid_mit_b0"))
    with pytest.raises(CommandError, match="alone_for_3_epochs-seed1 holds a run of another budget"):
        suite.check_runs(control)


def test_what_was_measured_before_sizes_had_names_still_counts(tmp_path):
    suite = a_suite(folder=tmp_path)
    (tmp_path / "steps.json").write_text(json.dumps(STEPS | {"crop": [256, 320]}))
    assert steps.known_costs(suite) == STEPS


def test_steps_are_measured_again_where_a_method_has_other_options_by_now(suite_file, monkeypatch):
    suite = read_suite(suite_file)
    options = suite.check().options
    recipes = {row.method: steps._recipe(suite, row) for row in suite.rows}
    kept = STEPS | {"crop": sizes.named(options["data.init_args.crop"]), "batch": 2, "machine": machine()}
    kept |= {"steps": steps.STEPS, "recipes": recipes}
    suite.folder.mkdir()
    (suite.folder / "steps.json").write_text(json.dumps(kept))
    assert steps.step_costs(suite, options) == kept
    monkeypatch.setattr(steps, "step_times", lambda *_: pytest.fail("measured"))
    with pytest.raises(pytest.fail.Exception, match="measured"):
        steps.step_costs(altered(suite, ["response KD:model.distiller.init_args.temperature=5"]), options)


def test_a_gap_may_end_at_a_method_in_place_of_the_teacher():
    runs = {("alone", 1): a_run(0.40), ("CWD", 1): a_run(0.55), ("more labels", 1): a_run(0.60)}
    methods = [Method("CWD", Path("c.yaml"), "near"), Method("more labels", Path("a.yaml"))]
    suite = a_suite(methods=methods, seeds=[1], goal="more labels")
    result = summarise(suite, BUDGET, runs, {"near": a_run(0.90, same_data=True)}, None, {})
    assert [run["gap_recovered"] for run in result["runs"]] == [pytest.approx(share) for share in (0, 0.75, 1)]
    lines = page(suite, result, "command", "out.png").splitlines()
    assert "| more labels | – | – | 60.00% | 100.0% | – | – | – | – | 2 |" in lines
    assert any(line.startswith("- Gap recovered: (run - alone) / (more labels - alone).") for line in lines)


def test_a_method_without_a_teacher_learns_from_other_labels_and_has_no_distiller(suite_file):
    values = yaml.safe_load(suite_file.read_text())
    values["methods"][0] |= {"teacher": None, "recipe": values["student"]["recipe"], "options": {"model.lr": 0.1}}
    values["methods"][0]["differs"] = {"model.lr": "to see what it does"}
    suite_file.write_text(yaml.safe_dump(values))
    assert read_suite(suite_file).check().differences[0].value == 0.1
    values["methods"][1]["teacher"] = None
    suite_file.write_text(yaml.safe_dump(values))
    with pytest.raises(CommandError, match="names a distiller, and the suite no teacher"):
        read_suite(suite_file).check()


def test_the_page_says_how_hard_each_loss_pulls_beside_the_labels():
    pulls = {"gradient_norm/cross_entropy": 4.0, "gradient_norm/channels": 6.0, "gradient_cosine/channels": 0.7}
    runs = {("alone", 1): a_run(0.4, gradients={}), ("CWD", 1): a_run(0.5, gradients=pulls)}
    suite = a_suite(seeds=[1])
    lines = page(suite, summarise(suite, BUDGET, runs, {}, None, {}), "command", "out.png").splitlines()
    assert "| CWD | channels | 1.50× | 0.70 |" in lines
    unpulled = page(suite, summarise(suite, BUDGET, {("alone", 1): a_run(0.4)}, {}, None, {}), "command", "out.png")
    assert "How the losses pull" not in unpulled


def test_a_single_seed_has_no_deviation_and_no_value_no_mean():
    assert spread([0.5, None]) == {"mean": 0.5, "std": None}
    assert spread([None]) is None


def test_there_is_no_gap_to_a_teacher_that_was_validated_on_other_data():
    runs = {("alone", 1): a_run(0.4), ("SD", 1): a_run(0.5)}
    result = summarise(a_suite(seeds=[1]), BUDGET, runs, {"far": a_run(0.9, same_data=False)}, None, {})
    assert result["runs"][1]["gap_recovered"] is None
    text = page(a_suite(seeds=[1]), result, "command", "out.png")
    assert "| SD | far | – | 50.00% | – | – | – | – | – | 2 |" in text
    assert "- far is validated on data of its own" in text


@pytest.mark.parametrize("runs", [{}, {("alone", 1): a_run(0.4), ("SD", 1): a_run(0.5)}])
def test_the_picture_is_drawn_of_what_there_is(runs):
    result = summarise(a_suite(), BUDGET, runs, {"near": a_run(0.6, same_data=True)}, STEPS if runs else None, {})
    assert picture(result, "A title").startswith(b"\x89PNG")


def recipe_anywhere(name):
    """A recipe's text as it can stand in any folder."""
    return (RECIPES / f"{name}.yaml").read_text().replace("base: base/", f"base: {RECIPES}/base/")


@pytest.fixture
def suite_file(tmp_path, shared_scene_tree, random_teacher):
    """A suite of a student and two methods on five small images, below a teacher that is there."""
    teacher = tmp_path / "teacher"
    (teacher / "checkpoints").mkdir(parents=True)
    shutil.copy(random_teacher("mit_b1"), teacher / "checkpoints" / "best.ckpt")
    (teacher / "config.yaml").write_text(recipe_anywhere("camvid_teacher"))
    (teacher / "metrics.json").write_text(json.dumps(a_run(0.5)))
    data = {
        "root": str(shared_scene_tree),
        "crop": [64, 64],
        "val_size": [64, 96],
        "batch_size": 2,
        "scenes": 0,
        "workers": 0,
    }
    values = {
        "title": "A title",
        "output": str(tmp_path / "docs" / "methods"),
        "folder": str(tmp_path / "runs"),
        "overrides": {"trainer.max_epochs": 1, "trainer.check_val_every_n_epoch": 1, "trainer.accelerator": "cpu"}
        | {f"data.init_args.{name}": value for name, value in data.items()},
        "teachers": {"B1": {"recipe": str(RECIPES / "camvid_teacher.yaml"), "run": str(teacher)}},
        "student": {"method": "alone", "recipe": str(RECIPES / "camvid_mit_b0.yaml")},
        "methods": [
            {"method": "response KD", "recipe": str(RECIPES / "camvid_response.yaml"), "teacher": "B1"},
            {"method": "TransKD", "recipe": str(RECIPES / "camvid_transkd_base.yaml"), "teacher": "B1"},
        ],
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def main(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--config", str(path), *arguments])
    return compare.main()


def train_here(run):
    """What compare.train does, in this process: importing torch takes longer than the run."""
    try:
        distill.main([*run.arguments])
    except distill.BAD_INPUT as error:
        return f"error: {error}"


def test_a_suite_goes_on_past_a_failure_and_called_again_has_nothing_to_do(suite_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "train", train_here)
    monkeypatch.setattr(steps, "STEPS", 1)
    change = ("--set", "TransKD:model.distiller.class_path=SpiritDistillation")
    assert main(monkeypatch, suite_file, *change) == 1
    printed = capsys.readouterr().out
    assert "[1/4] teacher B1: is there, val mIoU 50.00%" in printed
    assert "[4/4] TransKD, seed 1: failed: error: SpiritDistillation: the student must be the teacher" in printed

    written = json.loads((tmp_path / "docs" / "methods.json").read_text())
    assert [run["method"] for run in written["runs"]] == ["alone", "response KD"]
    assert all(0 <= run["val_miou"] <= 1 for run in written["runs"])
    ms = written["step_cost"]["ms"]
    parts = ms["alone"] + ms[f"forward {tmp_path / 'teacher' / 'checkpoints' / 'best.ckpt'}"]
    assert written["runs"][1]["step_cost_ratio"] == pytest.approx(ms["response KD"] / parts)
    assert written["step_cost"]["training_only"]["response KD"] == {"parameters": 0, "macs": 0}
    assert written["runs"][1]["prepare_seconds"] >= 0
    assert list(written["failures"]) == ["TransKD, seed 1"]
    text = (tmp_path / "docs" / "methods.md").read_text()
    assert "| TransKD | B1 | 50.00% | – | – | – |" in text
    assert (tmp_path / "docs" / "methods.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(compare, "train", lambda run: pytest.fail(f"{run.title} is trained"))
    monkeypatch.setattr(steps, "step_times", lambda *_: pytest.fail("steps are measured"))
    assert main(monkeypatch, suite_file, *change, "--only", "alone", "response KD") == 0
    assert json.loads((tmp_path / "docs" / "methods.json").read_text())["runs"] == written["runs"]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_from_its_last_checkpoint(suite_file):
    suite = read_suite(suite_file)
    distill.main([*suite.run(suite.student, 1).arguments])
    suite = altered(suite, ["trainer.max_epochs=2"])
    run = suite.run(suite.student, 1)
    (run.folder / "metrics.json").unlink()
    config = run.folder / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    suite.check()
    assert compare.train(run) is None
    assert f"going on from {run.last}" in (run.folder / "log.txt").read_text()
    assert json.loads((run.folder / "metrics.json").read_text())["epochs"] == 2


def test_the_table_alone_trains_nothing_and_shows_the_methods_without_numbers(suite_file, tmp_path, monkeypatch):
    assert main(monkeypatch, suite_file, "--table-only") == 0
    written = json.loads((tmp_path / "docs" / "methods.json").read_text())
    assert (written["runs"], written["step_cost"]) == ([], None)
    assert "- Not run, cells left empty: alone, response KD, TransKD." in (tmp_path / "docs" / "methods.md").read_text()
    assert not (tmp_path / "runs").exists()


def test_a_run_of_another_budget_is_refused_before_anything_is_trained(suite_file, monkeypatch):
    suite = read_suite(suite_file)
    run = suite.run(suite.methods[0], 1)
    run.last.parent.mkdir(parents=True)
    run.last.touch()
    (run.folder / "config.yaml").write_text(recipe_anywhere("camvid_response"))
    monkeypatch.setattr(compare, "train", lambda run: pytest.fail(f"{run.title} is trained"))
    with pytest.raises(
        CommandError, match=rf"{run.folder} holds a run of another budget: trainer.max_epochs is 44 and"
    ):
        main(monkeypatch, suite_file)


BUDGET_OPTIONS = {
    "model.lr": 0.1,
    "model.warmup_steps": 7,
    "model.optimiser": "sgd",
    "model.weight_decay": 0,
    "model.class_weights": [1] * 11,
    "model.encoder_weights": "imagenet",
    "data.init_args.crop": [96, 96],
    "data.init_args.zoom": [0.5, 1.0],
    "data.init_args.batch_size": 3,
    "trainer.gradient_clip_val": 0.5,
    "trainer.precision": "32-true",
    "trainer.callbacks": '[{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}]',
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(
            ([f"response KD:{option}={value}"], rf"not of one budget: {option} .*`differs: {{{option}: WHY}}`")
            for option, value in BUDGET_OPTIONS.items()
        ),
        (["response KD:model.distiller=null"], "names no distiller"),
        (["data.init_args.no_such_option=1"], "alone, seed 1: .*no_such_option"),
        (["B1:model.lr=1"], "another budget: model.lr is 0.0008 and in the suite 1.0"),
        (["no equals sign"], "expected KEY=VALUE"),
        (["CWD:model.lr=1"], "no such method or teacher; there are alone, response KD, TransKD, B1"),
    ],
)
def test_what_makes_runs_not_comparable_is_refused_by_its_name(suite_file, change, named):
    with pytest.raises(CommandError, match=named):
        altered(read_suite(suite_file), change).check()


def test_a_declared_difference_is_part_of_the_budget_and_one_that_is_not_there_is_refused(suite_file):
    values = yaml.safe_load(suite_file.read_text())
    values["methods"][0]["differs"] = {"model.lr": "it wants a smaller one"}
    suite_file.write_text(yaml.safe_dump(values))
    with pytest.raises(CommandError, match=r"response KD: differs: model\.lr is that of alone"):
        read_suite(suite_file).check()
    budget = altered(read_suite(suite_file), ["response KD:model.lr=0.0002"]).check()
    expected = Difference("response KD", "model.lr", 0.0002, 0.001, "it wants a smaller one")
    assert budget.differences == [expected]
    assert budget.options["model.lr"] == 0.001


def test_methods_of_other_steps_have_no_equal_time(suite_file):
    values = yaml.safe_load(suite_file.read_text()) | {"equal_time": True}
    suite_file.write_text(yaml.safe_dump(values))
    assert read_suite(suite_file).equal_time
    values["methods"][1] |= {"options": {"trainer.max_epochs": 3}, "differs": {"trainer.max_epochs": "longer"}}
    suite_file.write_text(yaml.safe_dump(values))
    with pytest.raises(CommandError, match="equal_time: the steps of TransKD differ by more than its method"):
        read_suite(suite_file)


def test_an_option_of_the_command_line_reaches_all_methods_or_the_one_it_names(suite_file):
    suite = altered(read_suite(suite_file), ["trainer.max_epochs=7", "TransKD:model.lr=0.1"])
    alone, response, transkd = (suite.run(row, 1).arguments for row in suite.rows)
    assert all("--trainer.max_epochs=7" in arguments for arguments in (alone, response, transkd))
    assert ["--model.lr=0.1" in arguments for arguments in (alone, response, transkd)] == [False, False, True]


def changed(values, path, value):
    *parents, last = path
    for key in parents:
        values = values[key]
    values[last] = value


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("no_such_key",), 1, "no_such_key"),
        (("seeds",), "one", "seeds"),
        (("seeds",), [1, 1], "seeds: 1 stands there twice"),
        (("seeds",), [], "at least one"),
        (("methods", 0, "teacher"), "B9", "response KD: no teacher B9; there are B1"),
        (("methods", 0, "recipe"), "no/such.yaml", "no recipe no/such.yaml"),
        (("methods", 1, "method"), "Response-KD", "methods: response_kd stands there twice"),
        (("goal",), "alone", "goal: no method alone; there are response KD, TransKD"),
        (("student", "teacher"), "B1", "student: it learns from labels only"),
        (("equal_time",), "for long", "equal_time"),
    ],
)
def test_a_bad_suite_is_refused_with_what_is_wrong(suite_file, path, value, named):
    values = yaml.safe_load(suite_file.read_text())
    changed(values, path, value)
    suite_file.write_text(yaml.safe_dump(values))
    with pytest.raises(CommandError, match=rf"suite.yaml: .*{named}"):
        read_suite(suite_file)


@pytest.mark.parametrize(("text", "named"), [("a: [", "not YAML"), ("- a", "not a suite"), ("", "not a suite")])
def test_a_file_that_is_no_suite_is_refused(tmp_path, text, named):
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(CommandError, match=named):
        read_suite(tmp_path / "suite.yaml")


def test_a_committee_is_shown_as_what_all_of_it_knows_and_another_ones_score_is_refused(tmp_path, monkeypatch):
    member, store, score = tmp_path / "member", tmp_path / "store", tmp_path / "score.json"
    for folder in (member, store):
        folder.mkdir()
    (member / "metrics.json").write_text(json.dumps(a_run(0.5)))
    annotators = {"teachers": [{"source": "a", "fingerprint": "1"}], "flip": True}
    (store / "soft_labels.json").write_text(json.dumps({"version": 1, **annotators}))
    knows = {"committee": {"miou": 0.7, "iou": {"road": 0.9}}}
    content = {"annotators": annotators, "machine": {"cpu": "X"}, "val": knows}
    score.write_text(json.dumps(content))
    teachers = {"all": TeacherRun(RECIPES / "camvid_teacher.yaml", member, soft_labels=store, score=score)}
    suite = replace(a_suite(), teachers=teachers, student=Method("alone", RECIPES / "camvid_mit_b0.yaml"))
    record = suite.teacher_record("all")
    assert (record["val_miou"], record["val_iou"], record["macs"]) == (0.7, {"road": 0.9}, None)

    score.write_text(json.dumps(content | {"annotators": annotators | {"flip": False}}))
    with pytest.raises(CommandError, match=r"score\.json is of another committee than .*store: other flip"):
        suite.teacher_record("all")
    score.unlink()
    with pytest.raises(CommandError, match=r"annotate\.py --output .*store --score .*score\.json writes both"):
        suite.teacher_record("all")


def test_a_method_that_the_suite_lacks_cannot_be_chosen(suite_file, monkeypatch):
    with pytest.raises(CommandError, match="--only CWD: no such method; there are alone, response KD"):
        main(monkeypatch, suite_file, "--only", "CWD")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("suite_*.yaml")), ids=lambda path: path.stem)
def test_the_methods_of_a_committed_suite_are_of_one_budget(path, tmp_path, monkeypatch):
    monkeypatch.chdir(RECIPES.parents[1])
    suite = read_suite(path)
    teachers = {name: replace(teacher, run=tmp_path / name) for name, teacher in suite.teachers.items()}
    replace(suite, folder=tmp_path / "runs", teachers=teachers).check()


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A function: the text of a program → a run that executes it in place of training/distill.py."""

    def write(text):
        (tmp_path / "child.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(distill, "__file__", str(tmp_path / "child.py"))
        suite = a_suite(folder=tmp_path / "runs")
        return suite.run(suite.student, 1)

    return write


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys; print('epoch 1'); sys.exit('error: no such data')", "error: no such data"),
        ("print('a trial')", "a trial"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("raise SystemExit(3)", "ended with code 3"),
    ],
)
def test_a_run_that_fails_says_why(child, text, reason):
    assert compare.train(child(text)) == reason


def test_ctrl_c_ends_the_run_that_is_under_way_first(child, tmp_path):
    run = child(
        "import pathlib, signal, sys, time\n"
        "def end(*_): pathlib.Path('ended').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end); pathlib.Path('started').touch(); time.sleep(60)\n"
    )

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a node that ended in this process leaves it ignored

    def press():
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        compare.train(run)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("suite_*.yaml")), ids=lambda path: path.stem)
def test_the_committed_table_is_that_of_its_suite_and_what_its_page_shows(path):
    suite = read_suite(path)
    output = RECIPES.parents[1] / suite.output
    table = json.loads(output.with_name(f"{output.name}.json").read_text())
    assert [row["method"] for row in table["methods"]] == [row.method for row in suite.rows]
    measured = {row["method"] for row in table["methods"] if row["seeds"]}
    assert {run["method"] for run in table["runs"]} == measured
    text = output.with_name(f"{output.name}.md").read_text()
    for run in table["runs"]:
        assert f"{run['val_miou']:.2%}" in text
    for row in table["methods"]:
        if row["teacher"] and row["step_cost_ratio"]:
            assert row["step_cost_ratio"] <= 1.5


def test_a_run_that_did_not_end_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"metrics\.json is missing"):
        read_run(tmp_path)
    (tmp_path / "metrics.json").write_text('{"best_val_miou": 0.5}')
    with pytest.raises(CommandError, match="lacks name, method"):
        read_run(tmp_path)


def test_there_is_no_share_of_a_gap_where_the_teacher_is_no_better():
    assert recovered(a_run(0.6), a_run(0.5), a_run(0.7)) == pytest.approx(0.5)
    assert recovered(a_run(0.4), a_run(0.5), a_run(0.7)) == pytest.approx(-0.5)
    assert recovered(a_run(0.6), a_run(0.5), a_run(0.5)) is None

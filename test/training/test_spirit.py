"""Spirit Distillation: what a front is, how it becomes compact, what a student adopts, and which step moves what."""

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from training import export  # noqa: E402
from training.data.camvid import CamVid  # noqa: E402
from training.distillers import DistillerError, SpiritDistillation  # noqa: E402
from training.fronts import front_modules, group_front  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from training.networks import NetworkError, NetworkSpec, build_network, count_macs  # noqa: E402
from training.taps import Taps  # noqa: E402
from training.teachers import Teacher, TeacherSource  # noqa: E402
from training.trained import read_bundle  # noqa: E402
from transkd_ros.model.bundle import load_bundle  # noqa: E402

pytestmark = pytest.mark.training
LITE0 = "tu-tf_efficientnet_lite0"


def network(encoder=LITE0, architecture="fpn", classes=11, **options):
    return build_network(NetworkSpec(architecture, encoder, classes, **options))


def groups_of(encoder):
    return {name: module.groups for name, module in encoder.named_modules() if isinstance(module, torch.nn.Conv2d)}


@pytest.mark.parametrize("encoder", [LITE0, "mobilenet_v2", "resnet18"])
def test_the_front_is_all_that_the_map_of_stride_16_is_made_of_and_keeps_its_shape_when_compact(encoder):
    image = torch.rand(2, 3, 64, 96)
    dense, compact = network(encoder).encoder, network(encoder, front_groups=4).encoder
    assert [stage.shape for stage in compact(image)] == [stage.shape for stage in dense(image)]
    assert compact(image)[4].shape[-2:] == (4, 6)

    names = front_modules(compact)
    assert names == front_modules(dense)
    compact(image)[4].sum().backward()
    used = {name for name, parameter in compact.named_parameters() if parameter.grad is not None}
    assert used == {f"{name}.{key}" for name in names for key, _ in compact.get_submodule(name).named_parameters()}

    changed = {name for name, groups in groups_of(compact).items() if groups != groups_of(dense)[name]}
    assert changed <= set(names)
    assert all(groups_of(compact)[name] in (2, 4) for name in changed)
    assert count_macs(compact, (64, 64)) < count_macs(dense, (64, 64))


def test_convolutions_are_grouped_but_for_those_that_narrow_in_the_first_block_of_a_stage():
    dense, compact = network().encoder, network(front_groups=4).encoder
    before, after = groups_of(dense), groups_of(compact)
    blocks = {(1, 0): (16, 96, 32), (1, 1): (24, 144, 16), (2, 0): (24, 144, 16), (2, 1): (40, 240, 8)}
    blocks |= {(3, 0): (40, 240, 8), (3, 1): (80, 480, 4), (3, 2): (80, 480, 4)}
    blocks |= {(4, 0): (80, 480, 4), (4, 1): (112, 672, 4), (4, 2): (112, 672, 4)}  # side of an image of 64×64
    widening = {f"model.blocks.{stage}.{block}.conv_pw" for stage, block in blocks}
    narrowing = {f"model.blocks.{stage}.{block}.conv_pwl" for stage, block in blocks if block > 0}
    # the first, 3 to 32, has no common divisor with 4
    changed = {name: groups for name, groups in after.items() if groups != before[name]}
    assert changed == dict.fromkeys(widening | narrowing, 4)
    macs = sum(given * made * side**2 * (1 + (block > 0)) for (_, block), (given, made, side) in blocks.items())
    assert count_macs(dense, (64, 64)) - count_macs(compact, (64, 64)) == macs * 3 // 4
    assert groups_of(network(front_groups=3).encoder)["model.blocks.1.1.conv_pw"] == 3
    assert groups_of(network(front_groups=3).encoder)["model.blocks.1.0.conv_pw"] == 1


def test_a_grouped_convolution_stays_of_its_class_with_its_stride_and_padding():
    dense, compact = (network("resnet18", front_groups=groups).encoder.layer2[0].conv1 for groups in (1, 2))
    assert (compact.groups, compact.weight.shape) == (2, (128, 32, 3, 3))
    assert (type(compact), compact.stride, compact.padding) == (type(dense), (2, 2), (1, 1))


@pytest.mark.parametrize("encoder", ["mit_b0", "tu-pvt_v2_b0"])
def test_a_transformer_has_no_front(encoder):
    with pytest.raises(NetworkError, match="attention"):
        network(encoder, "segformer", front_groups=4)


def test_groups_that_divide_nothing_are_refused():
    with pytest.raises(NetworkError, match="front_groups is 7"):
        group_front(network("resnet18").encoder, 7)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_student_with_a_compact_front_is_exported_with_parity(shared_scene_tree, tmp_path):
    torch.manual_seed(0)
    module = SegmentationModule("fpn", LITE0, front_groups=4)
    checkpoint, bundle = tmp_path / "best.ckpt", tmp_path / "compact"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, checkpoint)
    images = str(shared_scene_tree / "val" / "images")
    options = ["--checkpoint", str(checkpoint), "--output", str(bundle), "--input-size", "96x64", "--images", images]
    export.export(export.parse_arguments(options))  # an ExportError below 99.9 %
    assert load_bundle(bundle).manifest.architecture["front_groups"] == 4
    for name, value in read_bundle(bundle).network.state_dict().items():
        assert torch.equal(value, module.network.state_dict()[name]), name


def teacher_of(weights, classes=11):
    return Teacher(weights, NetworkSpec("fpn", LITE0, classes), None, "a teacher")


def student_of(teacher, **settings):
    module = SegmentationModule("fpn", LITE0, front_groups=4)
    own = {name: value.clone() for name, value in module.network.state_dict().items()}
    module.learn_from(teacher, SpiritDistillation(**settings))
    return module, own


@pytest.mark.parametrize(("classes", "anew"), [(11, set()), (19, {"segmentation_head.0"})])
def test_the_student_starts_as_its_teacher_but_for_what_is_compact_and_a_head_of_other_classes(classes, anew):
    teacher = network(classes=classes)
    module, own = student_of(teacher_of(teacher, classes))
    theirs = teacher.state_dict()
    anew = anew | {f"encoder.{name}" for name, groups in groups_of(module.network.encoder).items() if groups == 4}
    assert len(anew) == 16 + (classes == 19)
    for name, value in module.network.state_dict().items():
        expected = own if name.rpartition(".")[0] in anew else theirs
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        (NetworkSpec("fpn", LITE0), "the same front"),
        (NetworkSpec("fpn", "tu-tf_efficientnet_lite1", front_groups=4), "other layers"),
        (NetworkSpec("segformer", LITE0, front_groups=4), "other layers"),
        (NetworkSpec("fpn", "tu-mobilenetv3_small_050", front_groups=4), "other layers"),
    ],
    ids=str,
)
def test_another_network_than_the_teachers_is_refused_with_the_methods_that_fit(student, reason):
    module = SegmentationModule(student.architecture, student.encoder, front_groups=student.front_groups)
    with pytest.raises(DistillerError, match=rf"{reason}.*model\.front_groups.*any two networks.*ResponseKD") as error:
        module.learn_from(teacher_of(network()), SpiritDistillation())
    listed = str(error.value).rpartition(":")[2]
    assert "TransKD" not in listed
    assert "SpiritDistillation" not in listed


def test_a_teacher_of_the_same_layers_in_other_widths_is_refused():
    student = SegmentationModule("fpn", "tu-mobilenetv3_small_100", front_groups=4)
    narrow = Teacher(network("tu-mobilenetv3_small_050"), NetworkSpec("fpn", "tu-mobilenetv3_small_050"), None)
    with pytest.raises(DistillerError, match="layers of other sizes"):
        student.learn_from(narrow, SpiritDistillation())


def test_a_step_of_less_than_no_epoch_is_refused():
    with pytest.raises(DistillerError, match="frozen_epochs -1"):
        SpiritDistillation(frozen_epochs=-1)


def test_the_front_mimics_by_the_mean_squared_difference_of_the_maps_of_stride_16_in_float32():
    def taps(values, dtype):
        other = torch.full((1, 1, 1, 1), 100.0)
        return Taps(other, other, (other, other, torch.tensor(values, dtype=dtype).view(1, 1, 1, 2), other), ())

    loss = SpiritDistillation()(taps([0.0, 1.0], torch.bfloat16), taps([3.0, 5.0], torch.float32), torch.zeros(1, 1, 2))
    assert set(loss) == {"mimic"}
    assert (loss["mimic"].dtype, loss["mimic"].item()) == (torch.float32, (3**2 + 4**2) / 2)


def test_each_step_moves_what_it_trains_with_its_statistics_and_nothing_else():
    module, _ = student_of(teacher_of(network()), mimic_epochs=1, frozen_epochs=1)
    front = tuple(f"encoder.{name}." for name in module.distiller.front)
    assert not any(name.startswith("encoder.model.blocks.5") for name in front)
    images, labels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.uint8)
    moved = {}
    for phase in (*module.phases, *module.phases[::-1]):  # whatever the step before has left
        module.phase = phase
        module.distiller.begin_epoch(phase, module.network)
        before = {name: value.clone() for name, value in module.network.state_dict().items()}
        optimiser = torch.optim.SGD(module.network.parameters(), lr=1e-3)
        optimiser.zero_grad()
        torch.stack(list(module.losses(images, labels).values())).sum().backward()
        optimiser.step()
        after = module.network.state_dict()
        moved[phase.name] = {name for name in before if not torch.equal(before[name], after[name])}

        expected = {"mimic": (True, False), "frozen": (False, True), "fine-tune": (True, True)}[phase.name]
        assert expected[0] == any(name.startswith(front) for name in moved[phase.name])
        assert expected[1] == any(not name.startswith(front) for name in moved[phase.name])
    for name in ("encoder.model.blocks.1.0.conv_pw.weight", "encoder.model.bn1.running_mean"):
        assert [name in moved[phase.name] for phase in module.phases] == [True, False, True]
    for name in ("encoder.model.blocks.5.0.bn1.running_var", "segmentation_head.0.weight"):
        assert [name in moved[phase.name] for phase in module.phases] == [False, True, True]


def fit(scene_tree, folder, teacher, resume=None):
    """Two epochs of each step, two batches an epoch, with proximity images in the first; a checkpoint after each."""
    L.seed_everything(1)
    module = SegmentationModule(
        "fpn", LITE0, front_groups=4, warmup_steps=1,
        distiller=SpiritDistillation(2, 2), teacher=TeacherSource(str(teacher)),
    )  # fmt: skip
    near = str(scene_tree / "val" / "images")
    data = CamVid(str(scene_tree), crop=(64, 64), batch_size=2, scenes=0, workers=0, proximity=near)
    checkpoints = L.pytorch.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=6, callbacks=[checkpoints], logger=False, default_root_dir=folder, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return module, trainer


@pytest.fixture(scope="module")
def uninterrupted(shared_scene_tree, tmp_path_factory, random_teacher):
    """The folder of a whole run's checkpoints, and the weights at its end."""
    folder = tmp_path_factory.mktemp("whole")
    module, _ = fit(shared_scene_tree, folder, random_teacher(LITE0, "fpn"))
    return folder, module.state_dict()


@pytest.mark.parametrize("epoch", [0, 2, 4], ids=["mimic", "frozen", "fine-tune"])
def test_a_run_resumed_inside_any_step_ends_with_the_weights_of_an_uninterrupted_one(
    epoch, shared_scene_tree, tmp_path, random_teacher, uninterrupted
):
    folder, expected = uninterrupted
    torch.rand(7)  # a new process has drawn other numbers
    checkpoint = folder / f"epoch={epoch}.ckpt"
    resumed, trainer = fit(shared_scene_tree, tmp_path, random_teacher(LITE0, "fpn"), resume=checkpoint)
    assert (trainer.current_epoch, len(list(tmp_path.iterdir()))) == (6, 5 - epoch)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name

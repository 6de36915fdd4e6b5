"""Models, tables and profiles are found from a checkout and from an installation."""

import sysconfig
from pathlib import Path

import pytest

from transkd_ros import resources


def make_install(prefix, model="net"):
    """An installed package and its data under `prefix`; the path its resources.py would have."""
    share = prefix / "share" / "transkd_ros"
    (share / "models" / model).mkdir(parents=True)
    (share / "models" / model / "manifest.json").write_text("{}")
    (share / "config" / "labels").mkdir(parents=True)
    (share / "config" / "labels" / "camvid.yaml").write_text("")
    return prefix / "lib" / "site-packages" / "transkd_ros" / "resources.py"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "__file__", str(make_install(tmp_path)))
    monkeypatch.setattr(resources, "_ament_share", lambda: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: {"data": str(tmp_path)}[name])
    return tmp_path / "share" / "transkd_ros"


def test_a_checkout_uses_its_own_files(monkeypatch, tmp_path):
    package = tmp_path / "transkd_ros"
    (tmp_path / "models").mkdir()
    (tmp_path / "package.xml").write_text("")
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    monkeypatch.setattr(resources, "_ament_share", lambda: tmp_path / "elsewhere")
    assert resources.share_directory() == tmp_path


def test_pip_install_finds_its_data_below_the_prefix(installed):
    assert resources.share_directory() == installed


def test_ament_install_goes_before_the_prefix(installed, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.setattr(resources, "_ament_share", lambda: workspace)
    assert resources.share_directory() == workspace


def test_ament_index_is_asked_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("ament_index_python")
    marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "transkd_ros"
    marker.parent.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert resources._ament_share() is None
    (tmp_path / "share" / "transkd_ros").mkdir()
    marker.touch()
    assert resources._ament_share() == tmp_path / "share" / "transkd_ros"


def test_ros_without_a_sourced_workspace_is_no_error(monkeypatch):
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    assert resources._ament_share() is None


def test_install_without_data_says_where_it_should_be(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        resources.share_directory()


def test_model_is_found_by_name_and_by_path(installed, tmp_path, monkeypatch):
    assert resources.find_model("net") == installed / "models" / "net"
    own = tmp_path / "own" / "net"
    own.mkdir(parents=True)
    assert resources.find_model(own) == own
    monkeypatch.chdir(tmp_path / "own")
    assert resources.find_model("net") == installed / "models" / "net"
    assert resources.find_model("./net").resolve() == own.resolve()


def test_unknown_model_lists_the_shipped_ones(installed):
    (installed / "models" / "not_a_model").mkdir()
    with pytest.raises(FileNotFoundError, match=r"'nte'.*\(net\)"):
        resources.find_model("nte")


def test_unknown_label_table_lists_the_shipped_ones(installed):
    assert resources.labels_file("camvid") == installed / "config" / "labels" / "camvid.yaml"
    with pytest.raises(FileNotFoundError, match=r"'kitti'.*camvid"):
        resources.labels_file("kitti")


@pytest.fixture
def nothing_chosen(monkeypatch):
    """An environment in which the user has said nothing about DDS."""
    for variable in (*resources._DDS_CHOICES, "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("distribution", "variable"), [("jazzy", resources.FASTRTPS_PROFILE), ("kilted", resources.FASTDDS_PROFILE)]
)
def test_dds_gets_room_for_images_by_the_name_it_reads(distribution, variable, nothing_chosen, monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", distribution)
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    given = resources.dds_environment()
    assert list(given) == [variable]
    assert Path(given[variable]).is_file()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (resources.FASTRTPS_PROFILE, "mine.xml"),
        ("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4"),
        ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"),
    ],
)
def test_what_the_user_chose_for_dds_stays(variable, value, nothing_chosen, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert resources.dds_environment() == {}


def test_a_dds_profile_can_be_given_or_refused(nothing_chosen, tmp_path):
    assert resources.dds_environment("none") == {}
    with pytest.raises(FileNotFoundError, match=r"own\.xml.*auto or none"):
        resources.dds_environment(str(tmp_path / "own.xml"))
    (tmp_path / "own.xml").touch()
    assert list(resources.dds_environment(str(tmp_path / "own.xml")).values()) == [str(tmp_path / "own.xml")]

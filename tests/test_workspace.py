"""The workspace as a whole: packages, dependency direction, requirements, scripts. Starts no node."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import environment_tools
import pytest
import test_summary as summary
from catkin_pkg.package import parse_package

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "src").glob("*/package.xml"))
NAMES = [path.name for path in PACKAGES]
PYTHON_PACKAGES = [path for path in PACKAGES if (path / "setup.py").exists()]

SHARED = {"fosp_interfaces", "fosp_description", "fosp_core", "fosp_ros"}
ALLOWED = {
    "fosp_interfaces": set[str](),
    "fosp_description": set[str](),
    "fosp_core": set[str](),
    "fosp_ros": {"fosp_core", "fosp_description", "fosp_interfaces"},
    "fosp_bringup": set(NAMES),
}
"""Packages that a package may import; a part of the graph (what is not named here) may import the shared ones."""
WITHOUT_ROS = {"fosp_description", "fosp_core"}
WITH_TORCH = {"fosp_trainer"}

ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "h5py": "python3-h5py",
    "hypothesis": "python3-hypothesis",
    "imageio": "python3-imageio",
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "moveit": "moveit_py",
    "numpy": "python3-numpy",
    "psutil": "python3-psutil",
    "pytest": "python3-pytest",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
    "yaml": "python3-yaml",
}
"""Imports that the system's package manager provides, as rosdep of Jazzy and Kilted names them."""
ROS_PACKAGES = {
    "action_msgs",
    "ament_index_python",
    "builtin_interfaces",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "launch_testing",
    "lifecycle_msgs",
    "rcl_interfaces",
    "moveit",
    "moveit_msgs",
    "rclpy",
    "ros_gz_interfaces",
    "rosgraph_msgs",
    "sensor_msgs",
    "shape_msgs",
    "std_msgs",
    "std_srvs",
    "trajectory_msgs",
    "visualization_msgs",
}
STARTED = {
    "controller_manager",
    "gz_ros2_control",
    "joint_state_broadcaster",
    "joint_trajectory_controller",
    "moveit_planners_ompl",
    "moveit_servo",
    "robot_state_publisher",
    "ros_gz_bridge",
    "ros_gz_sim",
    "ros2launch",
    "rviz2",
}
PIP_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "lightning": "lightning-fabric",
    "mcap_ros2": "mcap-ros2-support",
    "yaml": "pyyaml",
}
"""Imports whose pip name differs from the module's by more than dashes."""

FIELD = re.compile(r"^[A-Za-z][\w/]*(?:<=\d+)?(?:\[[^\]]*\])? +[a-z]\w*(?: .*)?$")
CONSTANT = re.compile(r"^[a-z]\w* +[A-Z][A-Z0-9_]* *=")


def imports(folder: Path) -> Iterator[tuple[str, Path]]:
    """Top-level modules that the Python files under a folder import, wherever the import stands."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0], path


def declared(package: Path, *tags: str) -> set[str]:
    root = ElementTree.parse(package / "package.xml").getroot()
    return {(element.text or "").strip() for tag in tags for element in root.iter(tag)}


def setup_arguments(package: Path) -> dict[str, ast.expr]:
    for node in ast.walk(ast.parse((package / "setup.py").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup":
            return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    raise AssertionError(f"{package.name}: setup.py calls no setup()")


def entry_points(package: Path) -> dict[str, list[str]]:
    node = setup_arguments(package).get("entry_points")
    return ast.literal_eval(node) if node else {}


def each_package(packages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("package", packages, ids=lambda path: path.name)


@each_package(PACKAGES)
def test_package_declares_itself(package: Path) -> None:
    root = ElementTree.parse(package / "package.xml").getroot()
    build_type = "ament_python" if package in PYTHON_PACKAGES else "ament_cmake"
    assert root.get("format") == "3"
    assert root.findtext("name") == package.name
    assert root.findtext("license") == "Apache-2.0"
    assert root.findtext("export/build_type") == build_type
    assert (root.findtext("description") or "").strip()


def test_packages_are_well_formed_for_ros_and_depend_on_each_other_without_a_cycle() -> None:
    found, warnings = {}, list[str]()
    for package in PACKAGES:
        found[package.name] = parse_package(str(package), warnings=warnings)
    assert warnings == []
    left = {name: {d.name for d in [*p.exec_depends, *p.build_depends]} & set(NAMES) for name, p in found.items()}
    while left:
        free = {name for name, needs in left.items() if not needs & set(left)}
        assert free, f"a cycle among {', '.join(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


@each_package(PYTHON_PACKAGES)
def test_setup_agrees_with_package_xml(package: Path) -> None:
    arguments = setup_arguments(package)
    root = ElementTree.parse(package / "package.xml").getroot()
    assert ast.literal_eval(arguments["version"]) == root.findtext("version")
    assert ast.literal_eval(arguments["license"]) == root.findtext("license")
    assert (package / "resource" / package.name).exists()
    assert (package / package.name / "py.typed").exists()


@each_package(PYTHON_PACKAGES)
def test_entry_points_lead_to_functions(package: Path) -> None:
    for group, entries in entry_points(package).items():
        for entry in entries:
            _, target = entry.split("=")
            module, function = target.strip().split(":")
            path = package / (module.replace(".", "/") + ".py")
            assert path.exists(), f"{group}: {entry}: {path} is missing"
            defined = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            assert function in defined, f"{group}: {entry}: {path} defines no {function}()"


def test_executables_of_the_graph_are_there() -> None:
    executables = {
        f"{package.name}/{entry.split('=')[0].strip()}"
        for package in PYTHON_PACKAGES
        for entry in entry_points(package).get("console_scripts", [])
    }
    assert executables >= {
        "fosp_arm/arm_node",
        "fosp_arm/homing_node",
        "fosp_bringup/fosp-demo",
        "fosp_bringup/fosp-up",
        "fosp_camera/camera_node",
        "fosp_episodes/episode_node",
        "fosp_policy_node/policy_node",
        "fosp_safety_monitor/safety_monitor",
        "fosp_sim/simulation_node",
        "fosp_trainer/fosp-train",
    }


@each_package(PYTHON_PACKAGES)
def test_dependencies_point_one_way(package: Path) -> None:
    allowed = ALLOWED.get(package.name, SHARED) | {package.name}
    for module, path in imports(package / package.name):
        assert module not in NAMES or module in allowed, f"{path} imports {module}"
        if package.name in WITHOUT_ROS:
            assert module not in ROS_PACKAGES, f"{path} imports {module}"
        if package.name not in WITH_TORCH:
            assert module not in {"torch", "lightning", "lightning_fabric"}, f"{path} imports {module}"


@each_package(PYTHON_PACKAGES)
def test_imports_are_declared_where_they_come_from(package: Path) -> None:
    runtime = declared(package, "depend", "exec_depend")
    tests = runtime | declared(package, "test_depend")
    pip = {
        re.split(r"[=<> ;]", line)[0].lower()
        for name in ("base", "train", "dev")
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    folders = [(package / package.name, runtime), (package / "test", tests)]
    if package.name == "fosp_bringup":
        folders.append((ROOT / "launch", runtime))
    missing = set()
    for folder, available in folders:
        own = {package.name, *(path.stem for path in folder.glob("*.py"))}
        for module, _ in imports(folder):
            if module in sys.stdlib_module_names or module in own:
                continue
            key = ROSDEP_KEYS.get(module, module)
            ros = module in ROS_PACKAGES or module in NAMES
            if (ros or module in ROSDEP_KEYS) and key not in available:
                missing.add(f"package.xml: {key} (imported in {folder.name})")
            if not ros and PIP_NAMES.get(module, module.replace("_", "-")).lower() not in pip:
                missing.add(f"requirements/: {module} (imported in {folder.name})")
    assert not missing


@each_package(PYTHON_PACKAGES)
def test_declared_dependencies_are_used(package: Path) -> None:
    folders = [package / package.name, package / "test", *([ROOT / "launch"] if package.name == "fosp_bringup" else [])]
    used = {ROSDEP_KEYS.get(module, module) for folder in folders for module, _ in imports(folder)}
    # The bringup starts executables, and has plugins loaded, of packages that it doesn't import.
    started = {*NAMES, *STARTED} if package.name == "fosp_bringup" else set()
    assert declared(package, "depend", "exec_depend", "test_depend") <= used | started | {"python3-pytest"}


def test_colcon_meta_names_packages_that_exist() -> None:
    meta = json.loads((ROOT / "colcon.meta").read_text())
    assert set(meta) == {"names"}
    assert set(meta["names"]) <= set(NAMES)


def test_launch_files_are_installed_from_the_workspace() -> None:
    link = ROOT / "src/fosp_bringup/launch"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "launch"


@pytest.mark.parametrize(
    "interface",
    sorted(path for kind in ("msg", "srv", "action") for path in (ROOT / "src/fosp_interfaces").glob(f"{kind}/*")),
    ids=lambda path: path.name,
)
def test_interface_fields_are_commented(interface: Path) -> None:
    """A field has a comment in its line or in the line above it; the constants of a field may stand between."""
    commented = False
    bare = []
    for line in interface.read_text().splitlines():
        if line.startswith("#"):
            commented = True
        elif CONSTANT.match(line):
            continue
        else:
            if FIELD.match(line) and not commented and "#" not in line:
                bare.append(line)
            commented = False
    assert not bare


def test_interfaces_are_all_generated() -> None:
    cmake = (ROOT / "src/fosp_interfaces/CMakeLists.txt").read_text()
    listed = set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', cmake))
    folder = ROOT / "src/fosp_interfaces"
    assert listed == {
        str(path.relative_to(folder)) for kind in ("msg", "srv", "action") for path in folder.glob(f"{kind}/*")
    }


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert not line or line.startswith("#") or re.match(r"^[\w.-]+==[\w.]+$", line), line


def test_make_help_lists_every_target() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert re.findall(r"^  make (\w+)", text, re.MULTILINE) == phony[1].split()


class TestRun:
    """`./run`, in the built workspace."""

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "run"), *command],
            env={**os.environ, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_second_start_prepares_nothing(self) -> None:
        assert self.run("true").returncode == 0
        stamps = {path: path.stat().st_mtime_ns for path in (ROOT / "install").glob(".*") if path.is_file()}
        again = self.run("true")
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
        assert stamps == {path: path.stat().st_mtime_ns for path in stamps}

    def test_exit_code_and_arguments_are_the_commands(self) -> None:
        result = self.run("bash", "-c", 'printf "%s|" "$@"; exit 7', "bash", "a b", "--help", "")
        assert (result.returncode, result.stdout) == (7, "a b|--help||")

    def test_current_folder_is_kept(self, tmp_path: Path) -> None:
        result = subprocess.run([str(ROOT / "run"), "pwd"], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert Path(result.stdout.strip()) == tmp_path.resolve()

    def test_defaults_give_way_to_the_callers_values(self) -> None:
        given = {
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF",
            "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
            "MUJOCO_GL": "osmesa",
            "OMP_WAIT_POLICY": "ACTIVE",
            "ROS_DOMAIN_ID": "93",
        }
        seen = dict(line.split("=", 1) for line in self.run("env", **given).stdout.splitlines() if "=" in line)
        assert {name: seen[name] for name in given} == given
        assert seen["FOSP_WORKSPACE"] == str(ROOT)

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"},
            {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"},
            {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
        ],
    )
    def test_nodes_reach_each_other_as_the_runner_would_have_it(self, given: dict[str, str]) -> None:
        from fosp_bringup import middleware

        names = (middleware.RANGE, middleware.PROFILES, middleware.TRANSPORTS)
        unset = dict.fromkeys(names, "") | given
        seen = dict(line.split("=", 1) for line in self.run("env", **unset).stdout.splitlines() if "=" in line)
        for name, value in (given | middleware.environment(given)).items():
            if name == middleware.PROFILES and name not in given:
                assert Path(seen[name]).read_text() == Path(value).read_text()
            else:
                assert seen[name] == value

    def test_executables_and_nested_calls_share_one_path(self) -> None:
        once = self.run("bash", "-c", "command -v fosp-train >/dev/null && echo $PATH:$PYTHONPATH:$AMENT_PREFIX_PATH")
        twice = self.run(str(ROOT / "run"), "bash", "-c", "echo $PATH:$PYTHONPATH:$AMENT_PREFIX_PATH")
        assert once.returncode == 0
        assert once.stdout == twice.stdout

    def test_no_command_is_an_error_that_shows_the_usage(self) -> None:
        result = self.run()
        assert result.returncode == 1
        assert "usage: ./run" in result.stderr


class TestScripts:
    """The scripts in a copy of the workspace that has nothing prepared."""

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        root = tmp_path / "work space"
        for folder in ("scripts", "requirements"):
            shutil.copytree(ROOT / folder, root / folder)
        shutil.copytree(
            ROOT / "src", root / "src", symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.npz", "*.onnx")
        )
        shutil.copytree(ROOT / "launch", root / "launch")
        for file in ("run", "colcon.meta"):
            shutil.copy(ROOT / file, root)
        return root

    def inputs(self, root: Path) -> str:
        script = f'source "{root}/scripts/common.sh"; build_inputs "$ROOT/src" "$ROOT/launch"'
        return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout

    @pytest.mark.parametrize(
        ("path", "counts"),
        [
            ("src/fosp_core/package.xml", True),
            ("src/fosp_core/setup.py", True),
            ("src/fosp_interfaces/msg/TaskState.msg", True),
            ("src/fosp_interfaces/msg/New.msg", True),
            ("launch/other.launch.xml", True),
            ("src/fosp_core/fosp_core/task.py", False),
            ("src/fosp_core/fosp_core/new.py", False),
            ("src/fosp_core/test/test_new.py", False),
        ],
    )
    def test_definitions_decide_about_a_build_and_modules_do_not(self, copy: Path, path: str, counts: bool) -> None:
        before = self.inputs(copy)
        with (copy / path).open("a") as file:
            file.write("\n")
        assert (self.inputs(copy) != before) == counts

    def test_unsuitable_python_is_refused_with_its_version(self, copy: Path) -> None:
        python = copy / "python3.9"
        python.write_text("#!/bin/sh\necho 3.9\n")
        python.chmod(0o755)
        result = subprocess.run(
            [copy / "run", "true"], env=self.bare(FOSP_PYTHON=str(python)), capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert f"Python 3.11, 3.12 or 3.13 is needed ({python} is 3.9)" in result.stderr
        assert not (copy / ".venv").exists()

    def test_missing_cmake_is_named_with_what_to_install(self, copy: Path, tmp_path: Path) -> None:
        tools = tmp_path / "bin"
        tools.mkdir()
        for tool in (
            "bash",
            "cat",
            "flock",
            "g++",
            "gcc",
            "grep",
            "ldconfig",
            "make",
            "mkdir",
            "readlink",
            "sha256sum",
            "uname",
        ):
            if found := shutil.which(tool, path=f"{os.environ['PATH']}:/sbin:/usr/sbin"):
                (tools / tool).symlink_to(found)
        python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        result = subprocess.run(
            [copy / "run", "true"],
            env=self.bare(FOSP_PYTHON=str(python), PATH=str(tools)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert "Missing on this system: cmake" in result.stderr
        assert "apt-get install cmake" in result.stderr
        assert not (copy / ".venv").exists()

    def bare(self, **variables: str) -> dict[str, str]:
        """The environment without what `./run` put there."""
        inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        return {**inherited, **variables}


class TestEnvironmentTools:
    """The helpers of the environment script."""

    def distribution(self, site: Path, name: str, record: str) -> Path:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(record)
        (site / f"{name}.py").write_text("x = 1\n")
        return info

    def test_half_installed_distributions_are_forgotten(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment_tools, "SITE_PACKAGES", tmp_path)
        whole = self.distribution(tmp_path, "whole", "whole.py,sha256=x,6\nwhole-1.0.dist-info/RECORD,,\n")
        cut = self.distribution(tmp_path, "cut", "cut.py,sha256=x,600\n")
        lost = self.distribution(tmp_path, "lost", "lost.py,sha256=x,6\nlost_module.py,sha256=x,6\n")
        unrecorded = self.distribution(tmp_path, "unrecorded", "")
        (unrecorded / "RECORD").unlink()
        environment_tools.repair()
        assert [path.exists() for path in (whole, cut, lost, unrecorded)] == [True, False, False, False]

    def test_build_machine_paths_become_this_environments(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environment_tools, "PREFIX", tmp_path)
        monkeypatch.setattr(environment_tools, "SITE_PACKAGES", tmp_path / "site")
        file = tmp_path / "share" / "message" / "cmake" / "export.cmake"
        file.parent.mkdir(parents=True)
        old = "/opt/python/cp312-cp312"
        file.write_text(f'"{old}/include/python3.12;{old}/lib/python3.12/site-packages/numpy/_core/include"\n')
        environment_tools.rewrite_paths()
        once = file.read_text()
        environment_tools.rewrite_paths()
        assert old not in once
        assert f"{tmp_path}/site/numpy/_core/include" in once
        assert file.read_text() == once


class TestSummary:
    """The last line of a test run."""

    def write(self, folder: Path, text: str) -> None:
        folder.mkdir()
        (folder / "pytest.xml").write_text(text)

    def test_counts_add_up_and_failures_fail(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(
            tmp_path / "a",
            '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1" time="1"/></testsuites>',
        )
        self.write(
            tmp_path / "b",
            '<testsuites><testsuite tests="3" failures="0" errors="0" skipped="0" time="1"/></testsuites>',
        )
        assert summary.main(tmp_path) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "5 passed, 2 failed, 1 skipped"

    def test_unreadable_result_is_a_failure(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(tmp_path / "a", "<testsuites>")
        assert summary.main(tmp_path) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"

    def test_a_run_without_tests_fails(self, tmp_path: Path) -> None:
        assert summary.main(tmp_path) == 1

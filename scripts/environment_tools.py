"""What environment.sh and build.sh need from inside the virtual environment; standard library only at import.

Usage: environment_tools.py STEP, one of: repair, rewrite-paths, check-imports, check-rendering, environment SOURCE,
workspace INSTALL
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution
from pathlib import Path

PREFIX = Path(sys.prefix)
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
BUILD_MACHINE = r"/opt/python/cp\d+-cp\d+"

IMPORTS = [
    "cv2",
    "daqp",
    "gymnasium",
    "h5py",
    "honcho",
    "imageio",
    "jinja2",
    "lightning_fabric",
    "matplotlib",
    "mcap",
    "minari",
    "mink",
    "mujoco",
    "numpy",
    "onnx",
    "onnxruntime",
    "rclpy",
    "rclpy.action",
    "rclpy.lifecycle",
    "rich",
    "safetensors",
    "scipy",
    "sensor_msgs.msg",
    "tensorboard",
    "torch",
    "tyro",
    "viser",
]

PATH_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "PKG_CONFIG_PATH",
)


def repair() -> None:
    """Remove the metadata of distributions that an interrupted installer left incomplete: pip installs them again."""
    for folder in SITE_PACKAGES.glob("*.dist-info"):
        if not _is_complete(Distribution.at(folder)):
            print(f"incomplete, to be installed again: {folder.name}")
            shutil.rmtree(folder)
    for leftover in SITE_PACKAGES.glob("~*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _is_complete(distribution: Distribution) -> bool:
    """Whether every recorded file is there in its recorded size (but CMake files, which rewrite_paths() changes)."""
    if distribution.read_text("METADATA") is None or not (files := distribution.files):
        return False
    for file in files:
        if file.suffix == ".pyc":
            continue
        try:
            size = os.stat(file.locate()).st_size
        except OSError:
            return False
        if file.size is not None and file.suffix != ".cmake" and size != file.size:
            return False
    return True


def rewrite_paths() -> None:
    """Replace the build machine's paths in the CMake files of the ROS 2 wheels by those of this environment."""
    replacements = (
        (re.compile(BUILD_MACHINE + r"/include/python3\.\d+"), sysconfig.get_path("include")),
        (re.compile(BUILD_MACHINE + r"/lib/python3\.\d+/site-packages"), str(SITE_PACKAGES)),
    )
    changed = 0
    for root in (PREFIX / "share", PREFIX / "lib" / "cmake"):
        for file in root.rglob("*.cmake"):
            old = new = file.read_text(errors="surrogateescape")
            for pattern, target in replacements:
                new = pattern.sub(target.replace("\\", r"\\"), new)
            if new != old:
                temporary = file.with_name(file.name + ".new")
                temporary.write_text(new, errors="surrogateescape")
                temporary.replace(file)
                changed += 1
    print(f"{changed} files changed")


def check_imports() -> None:
    """Import what the stack rests on; name everything that can't be imported."""
    failures = []
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken library fails in many ways
            failures.append(f"  {name}: {error}")
    if failures:
        sys.exit("These can't be imported:\n" + "\n".join(failures))


def check_rendering() -> None:
    """Render one small image with the backend that MUJOCO_GL names."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 2'/><geom type='sphere' size='.5'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 32, 32) as renderer:
        renderer.update_scene(data)
        image = renderer.render()
    if image.max() == 0:
        sys.exit("the rendered image is black")


def environment(source: str) -> str:
    """Shell lines that activate this environment: on top of a sourced ROS 2, or with the wheels as the ROS 2 prefix."""
    lines = [
        f"export VIRTUAL_ENV={shlex.quote(str(PREFIX))}",
        f"export PATH={shlex.quote(str(PREFIX / 'bin'))}:$PATH",
    ]
    if source == "wheels":
        libraries = [PREFIX / "lib", *sorted(SITE_PACKAGES.glob("ros_*.libs"))]
        lines += [
            f"export AMENT_PREFIX_PATH={shlex.quote(str(PREFIX))}",
            f"export CMAKE_PREFIX_PATH={shlex.quote(str(PREFIX))}",
            _prepend("LD_LIBRARY_PATH", [str(path) for path in libraries]),
            # The library path is set, so the wheels need not execute every Python twice to set it.
            "export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1",
        ]
    return "\n".join(lines)


def workspace(install: Path) -> str:
    """Shell lines that put the packages under an install space into the environment, executables included.

    What the install space's own setup script does takes a second; this records its outcome.
    """
    before = {name: value for name in PATH_VARIABLES if (value := os.environ.get(name))}
    after = subprocess.run(
        ["bash", "-c", 'source "$1" >&2 && env -0', "bash", str(install / "local_setup.bash")],
        env={**before, "HOME": os.environ.get("HOME", "/")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    values = dict(entry.split("=", 1) for entry in after.split("\0") if "=" in entry)
    lines = []
    for name in PATH_VARIABLES:
        known = before.get(name, "").split(os.pathsep)
        added = [entry for entry in values.get(name, "").split(os.pathsep) if entry and entry not in known]
        if name == "PATH":
            added += [str(folder) for folder in sorted(install.glob("*/lib/*")) if folder.name == folder.parts[-3]]
        if added:
            lines.append(_prepend(name, added))
    return "\n".join(lines)


def _prepend(name: str, entries: list[str]) -> str:
    return f"export {name}={shlex.quote(os.pathsep.join(entries))}${{{name}:+:${name}}}"


def main(arguments: list[str]) -> None:
    """Run the step that the first argument names."""
    match arguments:
        case ["repair"]:
            repair()
        case ["rewrite-paths"]:
            rewrite_paths()
        case ["check-imports"]:
            check_imports()
        case ["check-rendering"]:
            check_rendering()
        case ["environment", source]:
            print(environment(source))
        case ["workspace", install]:
            print(workspace(Path(install)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

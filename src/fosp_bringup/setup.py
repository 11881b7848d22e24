from glob import glob

from setuptools import find_packages, setup

NAME = "fosp_bringup"

# Folders whose files are installed under share/fosp_bringup; `launch` is a symlink to the workspace's own.
SHARED = ("launch", "config", "rviz", "worlds", "urdf")

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={NAME: ["py.typed", "*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *[(f"share/{NAME}/{folder}", files) for folder in SHARED if (files := sorted(glob(f"{folder}/*.*")))],
    ],
    zip_safe=False,
    maintainer="FOSP maintainers",
    maintainer_email="maintainers@fosp.invalid",
    description="The whole graph: node list, parameters, launch files, embedded runner, demo.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "fosp-demo = fosp_bringup.demo:main",
            "console_node = fosp_bringup.console_node:main",
            "rviz_node = fosp_bringup.rviz_node:main",
            "fosp-up = fosp_bringup.runner:main",
        ],
    },
)

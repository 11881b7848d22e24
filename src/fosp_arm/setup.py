from setuptools import find_packages, setup

NAME = "fosp_arm"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={NAME: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
    maintainer="FOSP maintainers",
    maintainer_email="maintainers@fosp.invalid",
    description="Arm node: twist commands to joint targets by inverse kinematics, with limits and a watchdog.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "arm_node = fosp_arm.arm_node:main",
            "homing_node = fosp_arm.homing_node:main",
        ],
    },
)

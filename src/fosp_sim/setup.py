from setuptools import find_packages, setup

NAME = "fosp_sim"

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
    description="The SafeReach world in MuJoCo: gymnasium environment, data collection, simulation node.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "gazebo_node = fosp_sim.gazebo_node:main",
            "task_evaluator = fosp_sim.evaluator_node:main",
            "simulation_node = fosp_sim.simulation_node:main",
            "fosp-collect = fosp_sim.collect:main",
        ],
        "fosp.collectors": ["safereach = fosp_sim.collect:collect"],
        "gymnasium.envs": ["__root__ = fosp_sim.registration:register"],
    },
)

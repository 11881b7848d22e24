from setuptools import find_packages, setup

NAME = "fosp_trainer"

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
    description="World model, critics and actors in torch: pretraining, evaluation and export of model bundles.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "fosp-train = fosp_trainer.cli:main",
            "trainer_node = fosp_trainer.trainer_node:main",
        ],
    },
)

from glob import glob

from setuptools import find_packages, setup

NAME = "fosp_description"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={NAME: ["py.typed", "urdf/*.urdf", "urdf/*.srdf"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/urdf", glob("fosp_description/urdf/*.?rdf")),
    ],
    zip_safe=False,
    maintainer="FOSP maintainers",
    maintainer_email="maintainers@fosp.invalid",
    description="The SafeReach robot arm: one URDF that every simulator and solver loads.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
)

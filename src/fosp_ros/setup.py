from setuptools import find_packages, setup

NAME = "fosp_ros"

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
    description="What the nodes share: QoS profiles, names, parameters, image messages, diagnostics.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
)

from setuptools import find_packages, setup

NAME = "fosp_camera"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={NAME: ["py.typed", "*.png"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
    maintainer="FOSP maintainers",
    maintainer_email="maintainers@fosp.invalid",
    description="Camera node: video device, video file or folder of images to image_raw and camera_info.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "camera_node = fosp_camera.camera_node:main",
            "fosp-camera-check = fosp_camera.check:main",
        ],
    },
)

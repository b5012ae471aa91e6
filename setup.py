"""`pip install .` without colcon: the Python side only.

The interfaces come from CMake; `make setup` does both.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGE = ET.parse(Path(__file__).resolve().parent / "package.xml").getroot()


def text_of(tag: str) -> str:
    """The text of one element of package.xml."""
    return PACKAGE.findtext(tag, "").strip()


class BuildWithHelp(build_py):
    """Beside the modules the page of the commands: the help of one whose packages are missing."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # else docs/ is there
            page = Path(__file__).resolve().parent / "docs" / "commands.md"
            self.copy_file(str(page), str(Path(self.build_lib) / "ada3d_ros" / page.name))


setup(
    cmdclass={"build_py": BuildWithHelp},
    name=text_of("name"),
    version=text_of("version"),
    description=text_of("description"),
    license=text_of("license"),
    python_requires=">=3.11",
    packages=find_packages(include=["ada3d_ros", "ada3d_ros.*"]),
    package_data={
        "ada3d_ros": ["models/*/*"],
        "ada3d_ros.lab.report": ["*.j2"],
        "ada3d_ros.perception": ["*.txt"],
        "ada3d_ros.ros": ["*.xml"],
        "ada3d_ros.web": ["static/*"],
    },
    # Lower bounds of what works; the tested versions are pinned in constraints/.
    install_requires=[
        "jinja2>=3.0",
        "matplotlib>=3.6",
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
        "pillow>=10",
        "pyyaml>=6",
        "rosbags>=0.11.9",
        "safetensors>=0.5",
        "scipy>=1.11",
        "sentencepiece>=0.2",
        "torch>=2.11",
        "torchao>=0.18",
        "tqdm>=4.64",
        "transformers>=5.17",
    ],
    extras_require={
        "docs": ["mkdocs-material>=9.6"],  # `make docs`
        "detect": ["onnxruntime>=1.17"],  # `detector.path` of an ONNX file
        # BLEU, ROUGE-L, CIDEr (METEOR with Java besides); meshes of ScanNet
        "eval": ["plyfile>=1.0", "pycocoevalcap>=1.2"],
        "gpus": ["accelerate>=1.0"],  # `ada3d train`, `ada3d eval` on several
        "quantisation": ["torchao>=0.18"],  # `model.weights` int8, int4; required above already
        # `ada3d serve`. Exactly this one: the router that keeps a robot at its replica is marked
        # experimental there.
        "serve": ["ray[serve]==2.60.0"],
        "train": ["peft>=0.21"],  # `ada3d train --lora`
        # `ada3d web`: three.js is in its wheel, Starlette and uvicorn come along. Exactly this one.
        "web": ["nicegui==3.18.0"],
        "test": [
            "accelerate>=1.0",
            "hypothesis",
            "onnx>=1.15",
            "onnxruntime>=1.17",
            "nicegui==3.18.0",
            "peft>=0.21",
            "playwright>=1.50",  # drives a Chromium that the system has
            "plyfile>=1.0",
            "pycocoevalcap>=1.2",
            "pytest",
            "pytest-xdist",
            "rosbags-image>=0.10",
        ],
        "dev": ["mypy", "ruff"],
    },
    entry_points={"console_scripts": ["ada3d = ada3d_ros.__main__:run"]},
)

"""Packaging: one top-level name, `edgeprune`, which also carries `devices/` and `pipelines/`.

The two folders stay at the root of the repository for its consumers and become `edgeprune/devices`
and `edgeprune/pipelines` when installed: generic top-level names would be overwritten silently by
other distributions. They are data, never imported.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOLDERS = {"edgeprune.devices": "devices", "edgeprune.pipelines": "pipelines"}

# Ranges are what `make test-versions` runs at both ends: tests/versions/oldest.txt and newest.txt.
LITERT = "ai-edge-litert>=2.0.2,<3"

# ai-edge-litert has no wheel for 32-bit Arm; its predecessor does, built for NumPy 1.
DEVICE = [
    f"{LITERT}; platform_machine != 'armv7l'",
    "tflite-runtime==2.14.*; platform_machine == 'armv7l'",
    "numpy<2; platform_machine == 'armv7l'",
]
TENSORFLOW = [
    "tensorflow>=2.18,<2.22",
    "keras>=3.8,<3.16",
    "tf_keras>=2.18,<2.22",  # each release asks for the TensorFlow of its own number
    LITERT,
    "h5py>=3.11,<4",
    "pillow>=10.0,<14",
    "scikit-learn>=1.4,<2",
    "scipy>=1.12,<2",
]
QUANTIZATION = ["tensorflow-model-optimization==0.8.*"]
DRAWING = ["matplotlib>=3.9,<4", "pydot>=3.0,<5"]
DEVELOPMENT = [
    *DRAWING,
    *QUANTIZATION,
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "jsonschema>=4.20",
    "mypy>=1.13",
    "pre-commit>=4.0",
    "pytest>=8.0",
    "pytest-cov>=6.0",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "setuptools>=70.1",
]


def read_version() -> str:
    """Read the version from the package without importing it."""
    source = (ROOT / "edgeprune" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError("edgeprune/__init__.py has no line '__version__ = \"...\"'.")
    return match.group(1)


def read_description() -> str:
    """Read the README where there is one."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="edgeprune",
    version=read_version(),
    description="Keras CNNs made small, quantized and proven for the board they will run on",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["edgeprune", "edgeprune.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        "edgeprune": ["py.typed"],
        **{folder: ["**/*"] for folder in FOLDERS},
    },
    exclude_package_data={folder: ["**/__pycache__/*", "**/*.pyc"] for folder in FOLDERS},
    install_requires=["click>=8.1,<9", "numpy>=1.26,<3", "rich>=13.0,<16"],
    extras_require={
        "tensorflow": TENSORFLOW,
        "device": DEVICE,
        "drawing": DRAWING,
        "quantization": QUANTIZATION,
        "dev": DEVELOPMENT,
    },
    entry_points={"console_scripts": ["edgeprune = edgeprune.cli:main"]},
    zip_safe=False,
)

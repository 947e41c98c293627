"""Installs the package; everything about the tools that check it stands in pyproject.toml."""

from setuptools import find_packages, setup

# No single fairseq release runs everywhere: the official one stops at Python 3.10 (its dataclass
# defaults are refused from 3.11 on), ve-fairseq has the same Python files with that mended but
# wheels for Linux on x86-64 only, and fairseq-fixed is the same repair as source for the rest.
WHEEL = 'sys_platform == "linux" and platform_machine == "x86_64"'
SOURCE = '(sys_platform != "linux" or platform_machine != "x86_64")'
FAIRSEQ = [
    'fairseq==0.12.2 ; python_version < "3.11"',
    f've-fairseq==0.12.3 ; python_version >= "3.11" and {WHEEL}',
    f'fairseq-fixed==0.12.3.1 ; python_version >= "3.11" and {SOURCE}',
]

setup(
    name="lamemo_fairseq",
    version="0.2.0",
    description="LaMemo, a language model with look-ahead memory, as a fairseq plugin",
    license="MIT",
    entry_points={"console_scripts": ["lamemo=lamemo_command:main"]},
    python_requires=">=3.9,<3.13",  # no build of fairseq is known to run on later ones
    py_modules=["lamemo_command"],  # beside the package, whose import takes seconds
    packages=[*find_packages(include=["lamemo_fairseq", "lamemo_fairseq.*"]), "hydra_plugins"],  # hydra's own namespace
    package_data={
        "lamemo_fairseq": ["py.typed", "config/*.yaml", "config/variant/*.yaml"],
        "lamemo_fairseq.benchmark": ["fake_cuda.cpp"],
        "lamemo_fairseq.core": ["decode_kernels.cpp"],
    },
    install_requires=[
        *FAIRSEQ,
        "torch>=1.13",
        "hydra-core>=1.0.7",
        "sacremoses",
        "numpy",
        "matplotlib",
        "tensorboardX",
        "tqdm",
        "pooch",  # downloads of well-known corpora
        "requests",
        "safetensors",  # lamemo export
        "filelock",  # one training at a time writes into a --save-dir
    ],
    extras_require={
        # No requirement of all: it compiles only where Cython is installed already and with
        # --no-build-isolation, which pip does not do by itself; scripts/bootstrap.sh does both.
        "fastbpe": ["fastBPE>=0.1.0"],  # --bpe fastbpe, lamemo prepare --bpe
        "logging": ["tensorboard", "wandb"],  # examples/logging: fairseq uses them where they are there
        "sentencepiece": ["sentencepiece"],  # lamemo prepare --sentencepiece
        "hub": ["huggingface-hub"],  # lamemo push, and models by owner/name
        "test": ["pytest", "pytest-xdist", "hypothesis", "packaging", "nbclient", "ipykernel"],
        "dev": ["ruff", "mypy", 'import-linter ; python_version >= "3.11"'],
    },
)

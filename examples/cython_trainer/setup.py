"""Builds the trainer beside its source: python setup.py build_ext --inplace."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastce

# Where `cimport fastce._core` finds _core.pxd, even if fastce is installed in editable mode.
site = str(Path(fastce.__file__).parents[1])

setup(
    name="softmax_regression",
    ext_modules=cythonize(
        [Extension("softmax_regression", ["softmax_regression.pyx"])], include_path=[site]
    ),
)

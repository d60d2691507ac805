"""Builds the trainer in its own folder: python setup.py build_ext --inplace."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastce

# Cython finds _core.pxd here, even if fastce is installed in editable mode.
site = str(Path(fastce.__file__).parents[1])

setup(
    name="softmax_regression",
    ext_modules=cythonize(
        [Extension("softmax_regression", ["softmax_regression.pyx"])], include_path=[site]
    ),
)

"""The Python part of a call, between the public functions and the kernels."""

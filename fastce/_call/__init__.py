"""What a call goes through in Python, between the public functions and the kernels."""

"""``python -m fastce`` prints what is in use."""

from fastce import show_config

show_config()

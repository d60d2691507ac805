"""``python -m fastce`` prints what is in use; ``python -m fastce evaluate`` reads logits."""

import sys

from fastce import show_config
from fastce.evaluation import command_line

if sys.argv[1:]:
    sys.exit(command_line.main(sys.argv[1:]))
show_config()

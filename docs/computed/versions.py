"""The packages that fastce works with: lower bounds, and what this build of the site has used."""

import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

from bench.report import table as markdown

PROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
BRIDGES = ["torch", "jax", "boosting", "dask", "plots"]


def installed(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def table():
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    rows = [["Python", "always", project["requires-python"], platform.python_version()]]
    wanted = [("always", project["dependencies"])]
    wanted += [(f"`fastce[{name}]`", project["optional-dependencies"][name]) for name in BRIDGES]
    for reason, requirements in wanted:
        for requirement in requirements:
            package = re.match(r"[\w-]+", requirement)[0]
            bound = re.sub(r"^[\w-]+(\[\w+\])?", "", requirement)
            rows.append([package, reason, bound, installed(package)])
    return markdown(["package", "needed for", "version", "this site"], rows, len(rows[0]))

"""Mutations of the kernel of planes, and of what it shares with the flat one."""

from __future__ import annotations

from mutation import MODERATE, Mutation

MUTATIONS = [
    Mutation(
        "half of the logits not watched",
        "_flat_kernel.pxi",
        "highest = max(y, max(x, highest))",
        "highest = max(x, highest)",
        MODERATE,
    ),
    Mutation(
        "a plane's last class without those before it",
        "_plane_kernel.pxi",
        "        while j < classes:\n            sum.add",
        "        sum = nothing\n        while j < classes:\n            sum.add",
        MODERATE,
    ),
    Mutation(
        "losses of rows that a block of planes does not have",
        "_plane_kernel.pxi",
        "others[group] = 0.0",
        "others[group] = 1.0",
        MODERATE,
    ),
    Mutation(
        "NaN of unused rows in planes of gradients",
        "_plane_kernel.pxi",
        "y = keep(less(minus_one, label), y)",
        "y = y",
        MODERATE,
    ),
    Mutation(
        "short way: all images of a batch the first",
        "_short_way.pxi",
        "classes * behind * size if planes else 0",
        "0",
        ("test_short_way.py",),
    ),
    Mutation(
        "an extreme factor of planes twice",
        "_plane_kernel.pxi",
        "                work.factors[first + i] = 1\n",
        "",
        MODERATE,
    ),
    Mutation(
        "an extreme factor of rows twice",
        "_flat_kernel.pxi",
        "            factors[i] = 1\n",
        "",
        MODERATE,
    ),
    Mutation(
        "immoderate rows beside each other relative to nothing",
        "_flat_kernel.pxi",
        "raised_exp(x - reference)",
        "raised_exp(x)",
        MODERATE,
    ),
    Mutation(
        "an immoderate row's maximum forgotten",
        "_flat_kernel.pxi",
        "block.maximum[i] = highest[k]",
        "block.maximum[i] = 0",
        MODERATE,
    ),
    Mutation(
        "moderate rows beside immoderate ones done again",
        "_flat_kernel.pxi",
        "select(chosen, raised_exp(",
        "select(equal(x, x), raised_exp(",
        MODERATE,
    ),
]

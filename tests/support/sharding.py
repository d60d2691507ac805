"""Losses over shards of the classes, step by step as several processes would compute them."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from fastce import sharded


def splits(classes):
    """Where shards begin and end: halves, singles, uneven ones, and with empty ones between."""
    third = classes // 3
    return {
        "whole": [0, classes],
        "halves": [0, classes // 2, classes],
        "uneven": [0, 1, classes],
        "empty": [0, 0, third, third, classes, classes],
        "many": [0, *sorted({third // 2, third, 2 * third, classes - 1} - {0}), classes],
    }


def shards_of(array, axis, bounds):
    for first, last in itertools.pairwise(bounds):
        index = [slice(None)] * array.ndim
        index[axis] = slice(first, last)
        yield first, array[tuple(index)]


def arguments_of_shards(loss, logits, target, bounds):
    """(logits, target, first class) of each shard."""
    pieces = list(shards_of(logits, loss.axis, bounds))
    targets = [target] * len(pieces)
    if loss.takes_logits:  # a teacher's are split like the student's
        targets = [t for _, t in shards_of(np.asarray(target), loss.axis, bounds)]
    return [(z, t, first) for (first, z), t in zip(pieces, targets, strict=True)]


def summaries(loss, logits, target, bounds):
    classes = logits.shape[loss.axis]
    shards = arguments_of_shards(loss, logits, target, bounds)
    return [sharded.summarise(*shard, loss, classes=classes) for shard in shards]


def merged_in_every_order(parts):
    """From the left and from the right."""
    for order in itertools.permutations(parts):
        yield functools.reduce(sharded.merge, order)
        yield functools.reduce(lambda a, b: sharded.merge(b, a), reversed(order))


def evaluate(loss, logits, target, bounds, *, where=None, grad_output=None, **call):
    """Value and gradient of the loss, step by step as several processes would do it."""
    classes = logits.shape[loss.axis]
    shards = arguments_of_shards(loss, logits, target, bounds)
    masks = [None] * len(shards)
    if where is not None:
        where = np.broadcast_to(where, logits.shape)
        masks = [mask for _, mask in shards_of(where, loss.axis, bounds)]
    parts = [
        sharded.summarise(*shard, loss, classes=classes, where=mask)
        for shard, mask in zip(shards, masks, strict=True)
    ]
    summary = functools.reduce(sharded.merge, parts)
    value = sharded.finish(summary, shards[-1][1], loss, classes=classes, **call)
    grads = [
        sharded.gradient(
            *shard,
            part,
            summary,
            loss,
            classes=classes,
            where=mask,
            grad_output=grad_output,
            **call,
        )
        for shard, part, mask in zip(shards, parts, masks, strict=True)
    ]
    return value, np.concatenate(grads, axis=loss.axis)

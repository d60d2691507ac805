"""gevent replaces threads with greenlets: no call waits for one, whenever that happens."""

from __future__ import annotations

import pytest
from processes import LARGE_CALL, output_of

pytest.importorskip("gevent")

# The bits are those of one thread in a process that knows nothing of gevent.
CODE = (
    """
    if PATCH == "before the import":
        from gevent import monkey; monkey.patch_all()
    """
    + LARGE_CALL
    + """
    if PATCH == "after a large call":
        assert call() == expected
    if PATCH.startswith("after"):
        from gevent import monkey; monkey.patch_all()
    import gevent
    if CALLER == "main":
        results = [call() for _ in range(3)]
    elif CALLER == "greenlets":
        greenlets = [gevent.spawn(call) for _ in range(6)]
        gevent.joinall(greenlets)
        results = [greenlet.get() for greenlet in greenlets]
    elif CALLER == "native threads":
        pool = gevent.get_hub().threadpool
        results = [job.get() for job in [pool.spawn(call) for _ in range(6)]]
    else:
        import threading
        results = []
        threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    print(len(results), set(results) == {expected})
    fastce.set_num_threads(2)
    print(call() == expected)
    """
)


@pytest.mark.parametrize("caller", ["main", "greenlets", "native threads", "threading"])
@pytest.mark.parametrize(
    "patch", ["never", "before the import", "after the import", "after a large call"]
)
def test_a_large_call_returns_the_same_bits(patch, caller):
    code = CODE.replace("PATCH", repr(patch)).replace("CALLER", repr(caller))
    count = "3" if caller == "main" else "6"
    assert output_of(code, timeout=60, quiet=True) == [count, "True", "True"]


def test_a_forked_child_of_a_patched_process(tmp_path):
    # gevent's own waitpid, on one processor, waits for ever for a child that has ended quickly.
    code = """
        import numpy
        import fastce
        from gevent import monkey
        monkey.patch_all()
        import os
        fastce.set_num_threads(3)
        z = numpy.zeros((100_000, 10), "f4")
        y = numpy.arange(100_000) % 10
        expected = fastce.softmax_cross_entropy(z, y)[0]
        child = os.fork()
        if child == 0:
            os._exit(fastce.softmax_cross_entropy(z, y)[0] != expected)
        print(monkey.get_original("os", "waitpid")(child, 0)[1])
    """
    assert output_of(code, timeout=60) == ["0"]

from accuracy_results import section


def table():
    return section("softmax cross-entropy, float32")

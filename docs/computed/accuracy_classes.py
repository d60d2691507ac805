from accuracy_results import section


def table():
    return section("By the number of classes, float32, exact differences")

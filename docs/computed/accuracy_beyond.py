from accuracy_results import section


def table():
    return section("Beyond the bound")

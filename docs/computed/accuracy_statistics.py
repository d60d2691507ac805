from accuracy_results import section


def table():
    return section("Statistics", "accuracy_rows.md")

from accuracy_results import section


def table():
    return section("Divergence", "accuracy_rows.md")

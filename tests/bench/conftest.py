import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the benchmark out unless `-m bench` asks for it: it takes over a minute."""
    if "bench" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("bench") is not None:
            item.add_marker(pytest.mark.skip(reason="measures; ask for it with -m bench"))

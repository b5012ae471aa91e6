"""What every test may rely on: no network, one torch thread, recorded data."""

import os
import sys
from pathlib import Path

import pytest

# Before transformers is imported: a test that would download fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

# Files with the longest tests, longest first: what a worker begins last, all wait for
# (decision 234).
LONG_FILES = (
    "ros/test_soak.py",
    "ros/page/test_web_page.py",
    "ros/test_detections.py",
    "ros/test_recording_demo.py",
    "ros/test_health_node.py",
    "ros/test_from_a_bag.py",
    "ros/test_end_of_node.py",
    "ros/test_fuzz.py",
    "ros/test_commands.py",
    "ros/test_scenes_node.py",
    "ros/test_remote_node.py",
    "ros/test_main_job.py",
    "ros/test_node_imports.py",
    "ros/test_vision_path.py",
    "lab/evaluation/test_field_run.py",
    "lab/train/test_workers.py",
    "store/test_killed_writer.py",
    "lab/train/test_run.py",
    "lab/benchmarks/test_gpu_check_packages.py",
    "lab/evaluation/test_image_questions.py",
    "lab/train/test_pooling.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; the other files, and the tests of a file, stay in their order."""
    gone = [name for name in LONG_FILES if not (Path(__file__).parent / name).is_file()]
    if gone:
        raise pytest.UsageError(f"LONG_FILES in test/conftest.py names what is not there: {gone}")
    rank = {f"test/{name}": place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with golden/ and data/: $ADA3D_SHARED, or `shared` beside the checkout.

    Skips where there is none.
    """
    path = Path(os.environ.get("ADA3D_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (path / "golden").is_dir():
        pytest.skip(
            f"no recorded data: {path}/golden is absent (ADA3D_SHARED chooses another folder)"
        )
    return path


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The small recorded cases that are part of the repository (test/data/golden/README.md)."""
    return Path(__file__).resolve().parent / "data/golden"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with random weights, which no test changes."""
    from ada3d_ros.model.random_checkpoint import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One torch thread, so that sums do not depend on the machine; this imports no torch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which every test was skipped has tested nothing: it does not count as passed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.OK or reporter is None or session.config.option.collectonly:
        return
    if not any(reporter.stats.get(outcome) for outcome in ("passed", "xfailed", "xpassed")):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

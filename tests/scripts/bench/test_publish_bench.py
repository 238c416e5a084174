"""The frame of the benchmarks: the stored command line, and what is written."""

import pytest
from cases import load_script


@pytest.fixture
def frame():
    return load_script("bench/publish")


@pytest.mark.parametrize(
    "words, stored",
    [
        ("", ""),
        ("--quick", " --quick"),
        ("--runs 3 --side-python ./python --folder elsewhere", " --runs 3"),
        ("--without-peer --runs 200", " --without-peer"),
    ],
)
def test_a_command_is_stored_without_defaults_and_places(frame, words, stored):
    options = frame.parser("A benchmark.", quick=True)
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--without-peer", action="store_true")
    options.add_argument("--side-python")
    command = frame.command("sweep", options, options.parse_args(words.split()))
    assert command == "python scripts/bench/sweep.py" + stored


@pytest.mark.parametrize(
    "words, stem",
    [
        ("", "kernels"),
        ("--quick", "kernels_quick"),
        ("--case a --quick", "kernels_quick_a"),
        ("--case a", "kernels_a"),
    ],
)
def test_tiny_sizes_and_a_single_case_have_files_of_their_own(frame, words, stem):
    options = frame.parser("A benchmark.", quick=True)
    options.add_argument("--case")
    assert frame.stem("kernels", options.parse_args(words.split())) == stem


def test_numbers_and_their_table_are_written_and_printed(frame, tmp_path, capsys):
    folder = tmp_path / "new"
    frame.publish(folder, "tiles", {"seconds": 1.5}, lambda stored: f"{stored['seconds']} s")
    assert (folder / "tiles.json").read_text() == '{\n "seconds": 1.5\n}\n'
    assert (folder / "tiles.md").read_text() == "1.5 s" == capsys.readouterr().out.strip()
    with pytest.raises(ValueError):
        frame.publish(folder, "tiles", {"seconds": float("nan")}, str)
    assert "nan" not in (folder / "tiles.json").read_text().lower()


def test_the_record_of_a_machine_has_what_the_tables_show(frame):
    assert {"cpu", "cores", "memory_available_gib", "system"} == set(frame.machine())
    assert {"cores", "processor", "device", "python", "jax"} == set(frame.with_jax())
    assert frame.memory_available() > 2**20

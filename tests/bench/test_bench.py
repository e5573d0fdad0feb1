"""Goal: a published figure is right, or is not published.

Method: the arithmetic on samples made by hand; the runner for real on a tiny data set, with a
stand-in for holdfast that copies, and with ones that fail, copy too little, or are not there.
"""

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import main, parse_arguments
from tests.bench.data import make_dataset, measure_tree
from tests.bench.measure import RunFailedError, run_script
from tests.bench.model import Contender, Dataset, Round, Sample
from tests.bench.report import replace_section
from tests.bench.statistics import rows_of, run_order

OURS = Contender(name="holdfast", script="")
PEER = Contender(name="peer", script="", against="holdfast", goal=1.5)


def _rounds(ours_s: list[float], peer_s: list[float]) -> list[Round]:
    return [
        {"holdfast": Sample(wall_s=a, cpu_s=1.0), "peer": Sample(wall_s=b, cpu_s=2.0)}
        for a, b in zip(ours_s, peer_s, strict=True)
    ]


def test_ratio_is_the_median_of_ratios_within_rounds() -> None:
    # The ratio of the medians would be 2.0: the machine was slower in the third round.
    rounds = _rounds([1.0, 1.1, 2.0], [3.0, 2.2, 3.0])

    _, peer = rows_of([OURS, PEER], rounds, compares_memory=False)

    assert peer.ratio is not None
    assert (peer.ratio.low, peer.ratio.median, peer.ratio.high) == pytest.approx((1.5, 2.0, 3.0))
    assert peer.cpu_ratio is not None
    assert peer.cpu_ratio.median == 2.0
    assert peer.meets_goal is True


def test_missed_goal_is_said() -> None:
    _, peer = rows_of([OURS, PEER], _rounds([1.0], [1.4]), compares_memory=False)

    assert peer.meets_goal is False


@pytest.mark.parametrize(("ours_s", "peer_s"), [([1.0, 1.0], [1.0, 2.1]), ([1.0, 2.1], [2.0, 2.0])])
def test_spread_over_two_is_no_result(ours_s: list[float], peer_s: list[float]) -> None:
    _, peer = rows_of([OURS, PEER], _rounds(ours_s, peer_s), compares_memory=False)

    assert peer.is_noisy
    assert peer.meets_goal is None


def test_contender_that_missed_a_round_has_no_row() -> None:
    rounds = [*_rounds([1.0], [2.0]), {"holdfast": Sample(wall_s=1.0, cpu_s=1.0)}]

    assert [row.name for row in rows_of([OURS, PEER], rounds, compares_memory=False)] == [
        "holdfast"
    ]


def test_order_alternates() -> None:
    assert [run_order("ABC", index) for index in range(2)] == [list("ABC"), list("CBA")]


def test_dataset_is_the_same_every_time_and_of_the_size_said(tmp_path: Path) -> None:
    dataset = Dataset(files_count=5, size_bytes=1_500_000, directories_count=2)

    make_dataset(dataset, tmp_path / "a")
    make_dataset(dataset, tmp_path / "b")

    assert measure_tree(tmp_path / "a") == (5, 7_500_000)
    name = "d0001/f0000003.dat"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_dataset_of_several_sizes_has_them_in_turn_and_says_their_sum(tmp_path: Path) -> None:
    dataset = Dataset(files_count=6, size_bytes=300, directories_count=2, sizes_bytes=(100, 500))
    make_dataset(dataset, tmp_path / "a")

    assert measure_tree(tmp_path / "a") == (6, dataset.total_bytes)
    assert sorted(p.stat().st_size for p in tmp_path.rglob("*.dat")) == [100] * 3 + [500] * 3
    with pytest.raises(ValueError, match="do not come to"):
        Dataset(files_count=5, size_bytes=300, directories_count=2, sizes_bytes=(100, 500))


def test_times_and_memory_are_of_the_whole_tree(tmp_path: Path) -> None:
    burn = "python3 -c 'x = b\"x\" * (60 << 20); sum(range(3_000_000))' & wait $!"

    sample = run_script(burn, {"WORK": str(tmp_path)}, timeout_s=60, samples_memory=True)

    assert sample.cpu_s > 0
    assert sample.wall_s > 0.02
    assert sample.rss_bytes_max > 60 << 20


def test_script_may_measure_itself(tmp_path: Path) -> None:
    environment = {"WORK": str(tmp_path), "SAMPLE": str(tmp_path / "sample")}

    one = run_script('echo 1.5 >"$SAMPLE"', environment, timeout_s=60)
    all_three = run_script('echo 1.5 2.5 4096 >"$SAMPLE"', environment, timeout_s=60)

    assert (one.wall_s, one.cpu_s < 1) == (1.5, True)
    assert all_three == Sample(wall_s=1.5, cpu_s=2.5, rss_bytes_max=4096)


def test_script_that_fails_or_hangs_has_no_time(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"exit 3 .*no such luck"):
        run_script("echo no such luck >&2; exit 3", {"WORK": str(tmp_path)}, timeout_s=60)
    with pytest.raises(RunFailedError, match="exit -9"):
        run_script("sleep 60", {"WORK": str(tmp_path)}, timeout_s=0.1)


def test_section_is_exchanged_and_the_rest_kept() -> None:
    text = replace_section(replace_section("# Title\n", "a", "one\n"), "b", "two\n")

    text = replace_section(text, "a", "three \\1\n")

    assert text == (
        "# Title\n\n<!-- bench begin a -->\nthree \\1\n<!-- bench end -->\n\n"
        "<!-- bench begin b -->\ntwo\n<!-- bench end -->\n"
    )


def _run(tmp_path: Path, stand_in: str) -> dict[str, object]:
    program = tmp_path / "stand-in"
    program.write_text(f"#!/bin/bash\n{stand_in}\n")
    program.chmod(0o755)
    report = tmp_path / "report.jsonl"
    where = ["--disk", str(tmp_path / "disk"), "--holdfast", str(program), "--json", str(report)]
    main(["copy-large", "--scale", "0.0001", "--rounds", "2", *where])
    result: dict[str, object] = json.loads(report.read_text())
    assert list((tmp_path / "disk").iterdir()) == []
    return result


def test_runner_measures_all_that_are_there(tmp_path: Path) -> None:
    result = _run(tmp_path, 'cp -a "$2" "$3"; test -d "$HOLDFAST_STATE"')

    rows = result["rows"]
    assert isinstance(rows, list)
    assert [row["name"] for row in rows][:2] == ["holdfast", "cp -a, sync"]
    assert all(row["wall_s"]["median"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("stand_in", "reason"),
    [
        ("exit 7", "failed: exit 7"),
        ('mkdir "$3"', "failed: the target holds 0 files, 0 bytes"),
    ],
)
def test_copy_that_did_not_copy_is_skipped_with_the_reason(
    tmp_path: Path, stand_in: str, reason: str
) -> None:
    skipped = _run(tmp_path, stand_in)["skipped"]

    assert isinstance(skipped, list)
    assert skipped[0][0] == "holdfast"
    assert skipped[0][1].startswith(reason)


def test_bad_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["no-such"], ["--scale", "0"], ["--scale", "2"]):
        with pytest.raises(SystemExit, match="2"):
            parse_arguments(wrong)
    assert "no workload 'no-such'; there are copy-large" in capsys.readouterr().err

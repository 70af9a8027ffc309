"""Where the parts of a suite listen, as far as that is known before anything runs."""

from pathlib import Path

from cairn.cli.suite import Suite

SERVICES = ("definition", "evaluator", "scheduler", "activation")
DSN = "postgresql://nobody@127.0.0.1:1/nothing"


def test_ports_lie_at_fixed_distances_from_the_base(tmp_path: Path) -> None:
    suite = Suite(log_dir=tmp_path, dsn=DSN, port_base=7501)
    assert [suite.address(name) for name in SERVICES] == [f"127.0.0.1:{7501 + n}" for n in range(4)]
    assert suite.public_url == "http://127.0.0.1:8504"


def test_free_ports_are_given_to_one_part_each(tmp_path: Path) -> None:
    suite = Suite(log_dir=tmp_path, dsn=DSN)
    taken = [suite.address(name) for name in SERVICES] + [suite.public_url.removeprefix("http://")]
    assert len(set(taken)) == len(taken)

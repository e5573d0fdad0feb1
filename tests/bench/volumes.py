"""The workloads of volumes: our server of NBD beside nbdkit's and qemu's, with the same clients.

All serve files of one file system over loopback. The figures are those of the clients: fio, or one
that costs next to nothing. The CPU time is that of the server alone, for 100,000 requests. A limit
is a contender that always takes exactly what may be taken. qemu-nbd runs only where it has a goal,
in three rounds, so that all of them end in some eight minutes.
"""

from tests.bench.model import Contender, Dataset, Place, Workload

MIB = 1 << 20
_DATASET = Dataset(files_count=1, size_bytes=1, directories_count=1)
_PEERS = ("nbdkit", "qemu-nbd")
_ROUNDS = 3


def _script(server: str, load: str, figure: str) -> str:
    command = f"tests.bench.volumes_load {server} {load} {figure}"
    return f'"$(dirname "$HOLDFAST")/python" -m {command} "$DST"'


def _ours(load: str, figure: str = "time", *, server: str = "holdfast") -> Contender:
    return Contender(name=server, script=_script(server, load, figure), programs=("fio",))


def _peer(server: str, load: str, figure: str, goal: float, against: str) -> Contender:
    return Contender(
        name=server,
        script=_script(server, load, figure),
        programs=("fio", server),
        against=against,
        goal=goal,
    )


def _limit(name: str, sample: str, against: str = "holdfast") -> Contender:
    return Contender(
        name=name, script=f'mkdir "$DST"\necho {sample} >"$SAMPLE"', against=against, goal=1.0
    )


def _compare(
    name: str,
    title: str,
    *goals: float,
    place: Place = Place.MEMORY,
    ours: str = "holdfast",
) -> Workload:
    """Return a workload that a load of the same name drives; goals against nbdkit and qemu-nbd."""
    peers = [
        _peer(server, name, "time", goal, ours) for server, goal in zip(_PEERS, goals, strict=False)
    ]
    return Workload(
        name=f"volume-{name}" + ("-spin" if ours != "holdfast" else ""),
        title=title,
        dataset=_DATASET,
        place=place,
        rounds_count=_ROUNDS,
        contenders=(_ours(name, server=ours), *peers),
    )


_RANDOM = "100,000 requests of 4 KiB at random places"
_DISTURBED = _script("holdfast", "write-qd1-disturbed", "latency")

VOLUME_WORKLOADS = (
    _compare("write-qd32", f"{_RANDOM}, written, 32 under way", 1.0, 2.0),
    _compare("read-qd32", f"{_RANDOM}, read, 32 under way", 1.0, 2.0),
    _compare("write-qd32x4", f"{_RANDOM}, written, four clients of 32", 1.4, 2.0),
    _compare("read-qd32x4", f"{_RANDOM}, read, four clients of 32", 1.4, 2.0),
    _compare("write-qd1-pinned", f"{_RANDOM}, written one by one, pinned", 1.0),
    _compare("read-qd1-pinned", f"{_RANDOM}, read one by one, pinned", 1.0),
    _compare("write-qd1", f"{_RANDOM}, written one by one, spinning", 1.0, ours="holdfast-spin"),
    _compare("read-qd1", f"{_RANDOM}, read one by one, spinning", 1.0, ours="holdfast-spin"),
    _compare("blast-write", f"{_RANDOM}, written in batches of 32", 2.5),
    _compare("blast-read", f"{_RANDOM}, read in batches of 32", 2.0),
    _compare(
        "flush-64",
        f"{_RANDOM}, written, 32 under way, a flush after every 64",
        2.0,
        2.5,
        place=Place.DISK,
    ),
    _compare(
        "flush-512",
        f"{_RANDOM}, written, 32 under way, a flush after every 512",
        2.0,
        2.5,
        place=Place.DISK,
    ),
    Workload(
        name="volume-flush-512-p99.9",
        title="the slowest of 1,000 writes of 4 KiB, 32 under way, a flush after every 512",
        dataset=_DATASET,
        place=Place.DISK,
        rounds_count=_ROUNDS,
        contenders=(_ours("flush-512", "p99.9"), _limit("the limit, 5 ms", "0.005 0 0")),
    ),
    _compare("read-1m", "100,000 reads of 1 MiB in order, 4 under way", 1.0),
    _compare("write-1m", "100,000 writes of 1 MiB in order, 4 under way", 0.9),
    _compare("read-128k", "100,000 reads of 128 KiB in order, 8 under way", 1.0),
    _compare("write-128k", "100,000 writes of 128 KiB in order, 8 under way", 0.9),
    Workload(
        name="volume-disturbed",
        title="one write of 4 KiB, while the API is asked all the time",
        dataset=_DATASET,
        rounds_count=_ROUNDS,
        place=Place.MEMORY,
        contenders=(
            Contender(name="holdfast, asked", script=_DISTURBED, programs=("fio",)),
            Contender(
                name="holdfast, left alone",
                script=_script("holdfast", "write-qd1", "latency"),
                programs=("fio",),
                against="holdfast, asked",
                goal=0.9,
            ),
        ),
    ),
    Workload(
        name="volume-reopen",
        title="start of a server that was killed under load, until it serves again",
        dataset=_DATASET,
        rounds_count=_ROUNDS,
        contenders=(_ours("blast-write", "reopen"), _limit("the limit, 1 s", "1 0 0")),
    ),
    Workload(
        name="volume-memory",
        title="memory of a data process after 4 MiB writes",
        dataset=_DATASET,
        rounds_count=_ROUNDS,
        samples_memory=True,
        contenders=(
            _ours("write-4m"),
            _limit("the limit, 64 MiB", f"1 0 {64 * MIB}"),
        ),
    ),
)

"""The named workloads, their peers and goals (docs/benchmarks.md says how to read the results).

A copy counts as done when it would survive loss of power: peers that do not flush are followed by
`sync -f`, which flushes the file system of the target. In memory nothing is flushed, and the cost
of the work itself is compared.
"""

from tests.bench.bank_workloads import BANK_WORKLOADS
from tests.bench.model import Contender, Dataset, Place, Target, Workload
from tests.bench.streams import from_node, stream_workloads
from tests.bench.volumes import VOLUME_WORKLOADS

MIB = 1 << 20
LARGE = Dataset(files_count=4, size_bytes=512 * MIB, directories_count=1)
SMALL = Dataset(files_count=20_000, size_bytes=4096, directories_count=200)
MANY = Dataset(files_count=100_000, size_bytes=64, directories_count=500)

RSYNC_VERIFIED = 'rsync -a -W "$SRC/" "$DST/"\nsync -f "$DST"\nrsync -nac "$SRC/" "$DST/"'
TAR_PIPE = 'mkdir "$DST"\ntar -C "$SRC" -cf - . | tar -C "$DST" -xf -'
COPY = Contender(name="holdfast", script='"$HOLDFAST" copy "$SRC" "$DST" --no-verify --json')
COPY_VERIFIED = Contender(name="holdfast", script='"$HOLDFAST" copy "$SRC" "$DST" --json')


def _peer(
    name: str, script: str, *, goal: float | None = None, against: str = "holdfast", setup: str = ""
) -> Contender:
    program = name.split()[0]
    return Contender(
        name=name, script=script, programs=(program,), against=against, goal=goal, setup=setup
    )


def _verify(digest: str) -> Contender:
    return Contender(
        name=f"holdfast {digest}",
        script=f'"$HOLDFAST" verify "$SRC" "$DST" --digest {digest} --cache keep --json',
    )


def _sum_both(command: str) -> str:
    """Return a script that runs a digest program once a tree, with all its files as arguments."""
    names = "find . -type f -print0 | xargs -0 -s 2000000"
    return "\n".join(
        f'(cd "{tree}" && {names} {command}) >"$WORK/sums"' for tree in ("$SRC", "$DST")
    )


def _verify_workload(name: str, title: str, dataset: Dataset, files_each: int) -> Workload:
    parallel = f'xargs -0 -P "$CORES" -n {files_each} sha256sum >"$WORK/sums"'
    return Workload(
        name=name,
        title=title,
        dataset=dataset,
        target=Target.SHARED,
        setup='cp -a "$SRC" "$DST"\n'
        '(cd "$SRC" && find . -type f -print0 | xargs -0 sha256sum) >"$WORK/sha256"',
        contenders=(
            _verify("blake3"),
            _verify("sha256"),
            _verify("xxh3-128"),
            _peer("b3sum", _sum_both("b3sum"), goal=1.0, against="holdfast blake3"),
            _peer(
                "sha256sum -c",
                '(cd "$SRC" && sha256sum --quiet -c "$WORK/sha256")\n'
                '(cd "$DST" && sha256sum --quiet -c "$WORK/sha256")',
                goal=1.0,
                against="holdfast sha256",
            ),
            _peer(
                "sha256sum by xargs -P",
                f'find "$SRC" "$DST" -type f -print0 | {parallel}',
                goal=1.0,
                against="holdfast sha256",
            ),
            _peer("xxhsum -H2", _sum_both("xxhsum -q -H2"), goal=1.0, against="holdfast xxh3-128"),
            _peer(
                "rclone check --download",
                'rclone --config "" check --download -q "$SRC" "$DST"',
                goal=1.0,
                against="holdfast xxh3-128",
            ),
        ),
    )


def _memory_workload(name: str, files_count: int) -> Workload:
    return Workload(
        name=name,
        title=f"peak memory of plan, copy and verify, {files_count:,} empty files",
        dataset=Dataset(
            files_count=files_count, size_bytes=0, directories_count=files_count // 1000
        ),
        copies=True,
        samples_memory=True,
        rounds_count=1,
        contenders=(
            COPY_VERIFIED,
            *(
                [from_node("holdfast from a node, both sides", "")]
                if files_count <= 100_000
                else []
            ),
            _peer("rsync -a -W, sync, rsync -nac", RSYNC_VERIFIED),
        ),
    )


def _heads_workload(figure: str, title: str) -> Workload:
    """Return a workload of commits by 1, 8 and 64 clients, on SQLite and on etcd."""
    contenders = []
    for clients_count, commits_count in ((1, 4000), (8, 8000), (64, 16_000)):
        plural = "s" if clients_count > 1 else ""
        names = {
            kind: f"{name}, {clients_count} client{plural}" for kind, name in _HEAD_STORES.items()
        }
        for kind, name in names.items():
            load = f"tests.bench.heads_load {kind} {figure} {clients_count} {commits_count}"
            script = f'"$(dirname "$HOLDFAST")/python" -m {load} "$DST"'
            if kind == "sqlite":
                contenders.append(Contender(name=name, script=script))
            else:
                against, goal = names["sqlite"], 1.0
                contenders.append(
                    Contender(
                        name=name, script=script, programs=("etcd",), against=against, goal=goal
                    )
                )
    return Workload(
        name=f"heads-{figure}" if figure != "wall" else "heads-commit",
        title=title,
        dataset=Dataset(files_count=1, size_bytes=67, directories_count=1),
        contenders=tuple(contenders),
    )


_HEAD_STORES = {"sqlite": "holdfast", "etcd": "etcd 3.4"}

WORKLOADS = (
    Workload(
        name="copy-large",
        title="copy 4 files of 512 MiB, digest included, durable",
        dataset=LARGE,
        copies=True,
        contenders=(
            COPY,
            _peer("cp -a, sync", 'cp -a "$SRC" "$DST"\nsync -f "$DST"'),
            _peer("cp -a (not durable)", 'cp -a "$SRC" "$DST"'),
            _peer("rsync -a -W, sync", 'rsync -a -W "$SRC/" "$DST/"\nsync -f "$DST"', goal=1.5),
        ),
    ),
    Workload(
        name="copy-large-memory",
        title="copy 4 files of 512 MiB in memory, digest included",
        dataset=LARGE,
        place=Place.MEMORY,
        copies=True,
        contenders=(
            COPY,
            _peer("cp -a", 'cp -a "$SRC" "$DST"'),
            _peer("rsync -a -W", 'rsync -a -W "$SRC/" "$DST/"', goal=1.5),
        ),
    ),
    Workload(
        name="copy-small",
        title="copy 20,000 files of 4 KiB, digest included, durable",
        dataset=SMALL,
        copies=True,
        contenders=(
            COPY,
            _peer("rsync -a, sync", 'rsync -a "$SRC/" "$DST/"\nsync -f "$DST"', goal=1.3),
            _peer("rsync -a --fsync", 'rsync -a --fsync "$SRC/" "$DST/"', goal=4.0),
            _peer("cp -a, sync", 'cp -a "$SRC" "$DST"\nsync -f "$DST"'),
            _peer("tar pipe, sync", TAR_PIPE + '\nsync -f "$DST"'),
        ),
    ),
    Workload(
        name="copy-small-memory",
        title="copy 20,000 files of 4 KiB in memory, digest included",
        dataset=SMALL,
        place=Place.MEMORY,
        copies=True,
        contenders=(
            COPY,
            _peer("rsync -a", 'rsync -a "$SRC/" "$DST/"', goal=2.0),
            _peer("cp -a", 'cp -a "$SRC" "$DST"'),
            _peer("tar pipe", TAR_PIPE),
        ),
    ),
    Workload(
        name="copy-verified",
        title="copy 20,000 files of 4 KiB, durable, then re-read and compare both sides",
        dataset=SMALL,
        copies=True,
        contenders=(COPY_VERIFIED, _peer("rsync -a -W, sync, rsync -nac", RSYNC_VERIFIED)),
    ),
    Workload(
        name="copy-verified-large",
        title="copy 4 files of 512 MiB, durable, then re-read and compare both sides",
        dataset=LARGE,
        copies=True,
        contenders=(
            COPY_VERIFIED,
            _peer("rsync -a -W, sync, rsync -nac", RSYNC_VERIFIED, goal=1.5),
        ),
    ),
    Workload(
        name="second-pass",
        title="copy again, nothing changed, 100,000 files",
        dataset=MANY,
        target=Target.OWN,
        copies=True,
        contenders=(
            Contender(name="holdfast", script=COPY.script, setup=COPY.script),
            _peer(
                "rsync -a", 'rsync -a "$SRC/" "$DST/"', goal=2.0, setup='rsync -a "$SRC/" "$DST/"'
            ),
        ),
    ),
    *stream_workloads(LARGE, SMALL, MANY),
    _verify_workload("verify-large", "verify 4 files of 512 MiB, both sides, cached", LARGE, 1),
    _verify_workload(
        "verify-small", "verify 20,000 files of 4 KiB, both sides, cached", SMALL, 500
    ),
    _memory_workload("memory-10k", 10_000),
    _memory_workload("memory-100k", 100_000),
    _memory_workload("memory-1m", 1_000_000),
    _heads_workload(
        "wall", "commit 4,000, 8,000 and 16,000 heads from 1, 8 and 64 clients, each durable"
    ),
    _heads_workload(
        "p99",
        "99th percentile of the time of one commit from 1, 8 and 64 clients, middle of ten tenths",
    ),
    *VOLUME_WORKLOADS,
    *BANK_WORKLOADS,
)

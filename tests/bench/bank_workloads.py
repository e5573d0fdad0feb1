"""The workloads of banks, beside restic and borg: protect, again, verify, restore.

Each does the same work with digests, compression and sharing: holdfast and restic flush what they
store. restic always encrypts; holdfast and borg do here only where their names say so.
"""

from tests.bench.model import Contender, Dataset, Target, Workload

KIB = 1 << 10
FILES = Dataset(
    files_count=22_304,
    size_bytes=94 * KIB,
    directories_count=223,
    # Half of the files have a fiftieth of the bytes, the largest sixteenth two thirds of them.
    sizes_bytes=(*(4 * KIB,) * 8, *(16 * KIB,) * 4, *(64 * KIB,) * 2, 256 * KIB, 1024 * KIB),
)
"""2 GiB; every size is met in every directory, for the numbers of both have no common factor."""

_STATE = 'export HOLDFAST_STATE="$DST/state"\n'
_PLAN = (
    f'mkdir -p "$DST"\n{_STATE}"$HOLDFAST" checkpoints plan p --bank "$DST/bank" --resource "$SRC"'
)
_PROTECT = f'{_STATE}"$HOLDFAST" checkpoints protect p --quiet --json'
_RESTIC = 'export RESTIC_PASSWORD=x RESTIC_REPOSITORY="$DST/restic" XDG_CACHE_HOME="$DST/cache"\n'
_RESTIC_MAKE = f'mkdir -p "$DST"\n{_RESTIC}restic init -q'
_RESTIC_SAVE = f'{_RESTIC}restic backup -q "$SRC"'
_BORG = (
    'export BORG_REPO="$DST/borg" BORG_BASE_DIR="$DST/base" BORG_PASSPHRASE=x\n'
    "export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes\n"
)
_BORG_SAVE = f'{_BORG}borg create --compression zstd,1 "::a$RANDOM$RANDOM" "$SRC"'


def _borg_make(encryption: str) -> str:
    return f'mkdir -p "$DST"\n{_BORG}borg init -e {encryption}'


def _first() -> Workload:
    return Workload(
        name="protect-first",
        title="protect 2 GiB of mixed files (4 KiB to 1 MiB) into a new bank in a directory",
        dataset=FILES,
        makes_files=False,
        rounds_count=3,
        contenders=(
            Contender(name="holdfast", script=f"{_PLAN}\n{_PROTECT}"),
            Contender(name="holdfast encrypted", script=f"{_PLAN} --encrypt\n{_PROTECT}"),
            _peer("borg", f"{_borg_make('none')}\n{_BORG_SAVE}", goal=1.0),
            _peer(
                "borg encrypted",
                f"{_borg_make('repokey-blake2')}\n{_BORG_SAVE}",
                goal=1.0,
                against="holdfast encrypted",
            ),
            _peer(
                "restic", f"{_RESTIC_MAKE}\n{_RESTIC_SAVE}", goal=1.0, against="holdfast encrypted"
            ),
        ),
    )


def _second(
    name: str,
    title: str,
    scripts: tuple[str, str, str],
    goal: float,
    *,
    makes_files: bool = False,
) -> Workload:
    """Return a workload on what each made itself."""
    own, borg, restic = scripts
    return Workload(
        name=name,
        title=title,
        dataset=FILES,
        target=Target.OWN,
        makes_files=makes_files,
        rounds_count=3,
        contenders=(
            Contender(name="holdfast", script=own, setup=f"{_PLAN}\n{_PROTECT}"),
            _peer("borg", borg, goal=goal, setup=f"{_borg_make('none')}\n{_BORG_SAVE}"),
            _peer("restic", restic, goal=goal, setup=f"{_RESTIC_MAKE}\n{_RESTIC_SAVE}"),
        ),
    )


def _peer(
    name: str, script: str, *, goal: float, against: str = "holdfast", setup: str = ""
) -> Contender:
    return Contender(
        name=name,
        script=script,
        programs=(name.split()[0],),
        against=against,
        goal=goal,
        setup=setup,
    )


_RESTORE = (
    f'{_STATE}ID=$("$HOLDFAST" checkpoints list --json | head -1 | cut -d\'"\' -f4)\n'
    '"$HOLDFAST" checkpoints restore "$ID" --target "$DST/out" --no-verify --json\n'
    'rm -rf "$DST/out"'
)

BANK_WORKLOADS = (
    _first(),
    _second(
        "protect-unchanged",
        "protect 2 GiB of mixed files (4 KiB to 1 MiB) again, nothing changed",
        (_PROTECT, _BORG_SAVE, _RESTIC_SAVE),
        2.0,
    ),
    _second(
        "verify-bank",
        "verify 2 GiB in a bank by reading and hashing all of it",
        (
            f'{_STATE}"$HOLDFAST" checkpoints verify --json',
            f"{_BORG}borg check --verify-data",
            f"{_RESTIC}restic check -q --read-data",
        ),
        1.5,
    ),
    _second(
        "restore-bank",
        "restore 2 GiB from a bank, each chunk's digest checked, and remove it again",
        (
            _RESTORE,
            f'{_BORG}mkdir "$DST/out"\ncd "$DST/out"\n'
            'borg extract "::$(borg list --short --last 1)"\nrm -rf "$DST/out"',
            f'{_RESTIC}restic restore -q latest --target "$DST/out"\nrm -rf "$DST/out"',
        ),
        1.0,
        makes_files=True,
    ),
)

"""Workloads between two processes over loopback: a node and a copy from it, beside their peers.

A script starts its source, waits until it listens, and measures what comes after by itself: what a
copy takes, not the start of a server. The CPU time is that of both sides, their start included.
"""

from tests.bench.model import Contender, Dataset, Place, Target, Workload

_NODE = """
cat >"$RUN/node.toml" <<END
[node]
names = ["127.0.0.1"]
state = "$RUN/node"
[listen]
port = 0
[migration_map]
"127.0.0.1" = "target.invalid"
[instances.main]
hosts = ["127.0.0.1"]
staging = "$RUN/staging"
[instances.main.directories]
data = ["$SRC"]
END
rm -f "$RUN/log"
"$HOLDFAST" node --config "$RUN/node.toml" >"$RUN/log" &
source=$!
until grep -qs ' stream ' "$RUN/log"; do sleep 0.05; done
FROM="127.0.0.1:$(sed -n 's/.* stream //p' "$RUN/log" | head -n 1)/main/data/0"
"""
_RSYNC = """
printf '[tree]\\npath = %s\\nuse chroot = no\\n' "$SRC" >"$RUN/rsyncd.conf"
rsync --daemon --no-detach --address=127.0.0.1 --port="$PORT" --config="$RUN/rsyncd.conf" &
source=$!
until (: >"/dev/tcp/127.0.0.1/$PORT") 2>"$RUN/log"; do sleep 0.05; done
FROM="rsync://127.0.0.1:$PORT/tree/"
"""
_RCLONE = """
rclone --config "" serve http "$SRC" --addr "127.0.0.1:$PORT" -q &
source=$!
until (: >"/dev/tcp/127.0.0.1/$PORT") 2>"$RUN/log"; do sleep 0.05; done
fetch() { rclone --config "" copy -q --http-url "http://127.0.0.1:$PORT" ":http:" "$DST"; }
"""
_END = """
kill "$source" 2>"$RUN/log" || true
wait "$source" || true
"""


def _plain(what: str) -> str:
    """Return how to start a source of plain_stream.py, and what it is called with."""
    return f"""
plain=("$(dirname "$HOLDFAST")/python" -m tests.bench.plain_stream)
rm -f "$RUN/log"
"${{plain[@]}}" {what} "$PORT" "$SRC" >"$RUN/log" &
source=$!
until grep -qs listening "$RUN/log"; do sleep 0.05; done
"""


def _timed(start: str, work: str) -> str:
    """Return a script that starts a source, does the work, and says how long only that took."""
    return (
        f"{start}began=$EPOCHREALTIME\n{work}\nended=$EPOCHREALTIME\n"
        f'echo "$began $ended" | awk \'{{ print $2 - $1 }}\' >"$SAMPLE"\n{_END}'
    )


def from_node(name: str, options: str) -> Contender:
    """Return a copy from a node, which is started before and ended after."""
    work = f'"$HOLDFAST" copy "$FROM" "$DST" {options} --json'
    return Contender(name=name, script=_timed(_NODE, work))


def _peer(
    name: str, start: str, work: str, *, goal: float | None = None, against: str = "holdfast"
) -> Contender:
    program = "tar" if start.startswith("\nplain") else name.split()[0]
    return Contender(
        name=name, script=_timed(start, work), programs=(program,), against=against, goal=goal
    )


_SYNC = '\nsync -f "$DST"'
_FETCH_TAR = 'mkdir "$DST"\ntar -C "$DST" -xf - <"/dev/tcp/127.0.0.1/$PORT"'
_FETCH_PLAIN = '"${plain[@]}" receive "$PORT" "$DST"'
_VERIFIED = "holdfast, verified"


def _rsync(options: str, then: str = "") -> str:
    return f'rsync {options} "$FROM" "$DST/"{then}'


def _again(contender: Contender) -> Contender:
    """Return one whose setup is the first pass, so that what is measured is the second."""
    return Contender(
        name=contender.name,
        script=contender.script,
        programs=contender.programs,
        against=contender.against,
        goal=contender.goal,
        setup=contender.script,
    )


def stream_workloads(large: Dataset, small: Dataset, many: Dataset) -> tuple[Workload, ...]:
    """Return the workloads, over data sets that others use too."""
    return (
        Workload(
            name="stream-large",
            title="copy 4 files of 512 MiB from a node over loopback, digest included, durable",
            dataset=large,
            copies=True,
            rounds_count=3,
            contenders=(
                from_node("holdfast", "--no-verify"),
                from_node(_VERIFIED, ""),
                _peer(
                    "rsync daemon -W, sync",
                    _RSYNC,
                    _rsync("-a -W", _SYNC),
                    goal=1.5,
                    against=_VERIFIED,
                ),
                _peer("rclone over HTTP, sync", _RCLONE, "fetch" + _SYNC, goal=1.0),
                _peer(
                    "sendfile without digests, sync",
                    _plain("send"),
                    _FETCH_PLAIN + _SYNC,
                    goal=0.8,
                ),
            ),
        ),
        Workload(
            name="stream-small",
            title="copy 20,000 files of 4 KiB from a node over loopback, digest included, durable",
            dataset=small,
            copies=True,
            rounds_count=3,
            contenders=(
                from_node("holdfast", "--no-verify"),
                _peer("rsync daemon, sync", _RSYNC, _rsync("-a", _SYNC), goal=1.3),
                _peer("rsync daemon --fsync", _RSYNC, _rsync("-a --fsync"), goal=4.0),
                _peer("tar through a socket, sync", _plain("tar"), _FETCH_TAR + _SYNC),
                _peer("rclone over HTTP, sync", _RCLONE, "fetch" + _SYNC, goal=1.0),
            ),
        ),
        Workload(
            name="stream-small-memory",
            title="copy 20,000 files of 4 KiB from a node over loopback in memory",
            dataset=small,
            place=Place.MEMORY,
            copies=True,
            rounds_count=3,
            contenders=(
                from_node("holdfast", "--no-verify"),
                _peer("rsync daemon", _RSYNC, _rsync("-a"), goal=2.0),
                _peer("tar through a socket", _plain("tar"), _FETCH_TAR),
            ),
        ),
        Workload(
            name="stream-second-pass",
            title="copy again from a node, nothing changed, 100,000 files",
            dataset=many,
            target=Target.OWN,
            copies=True,
            rounds_count=3,
            contenders=(
                _again(from_node("holdfast", "--no-verify")),
                _again(_peer("rsync daemon", _RSYNC, _rsync("-a"), goal=2.0)),
            ),
        ),
    )

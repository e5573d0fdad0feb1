"""Commands on local trees: copy, verify, repair. Thin: parse, call the service, tell."""

from pathlib import Path

from holdfast.cli import options, report, session
from holdfast.cli.arguments import (
    parse_delete_limit,
    parse_jobs,
    parse_percent,
    parse_size,
    parse_source,
    parse_tree,
)
from holdfast.cli.output import format_bytes, print_json, printable
from holdfast.cli.proofs import read_public_key
from holdfast.cli.tokens import read_token
from holdfast.errors import InvalidRequestError
from holdfast.files.model import (
    Action,
    CacheUse,
    CopyOptions,
    DeleteLimit,
    PlanItem,
    VerifyOptions,
)
from holdfast.files.pair import Manner
from holdfast.files.results import findings_result, plain_object
from holdfast.model.tree import display_path
from holdfast.proof.digests import Algorithm, parse_algorithm
from holdfast.proof.statement import VerificationMode
from holdfast.server.local import LocalServices


def copy(
    source: options.SourceTree,
    target: options.TargetTree,
    *,
    plan: options.Plan = False,
    summary: options.Summary = False,
    delete: options.Delete = False,
    max_delete: options.MaxDelete = None,
    verify: options.VerifyHow = options.CopyVerification.INCREMENTAL,
    no_verify: options.NoVerify = False,
    proof: options.ProofOut = None,
    exclude: options.Exclude = None,
    digest: options.DigestName = Algorithm.BLAKE3.value,
    cache: options.Cache = CacheUse.DROP,
    bwlimit: options.Rate = None,
    jobs: options.Jobs = None,
    nice: options.Nice = False,
    report_file: options.Report = None,
    token_file: options.TokenFile = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make TARGET like SOURCE: plan, copy, verify, and leave a signed proof.

    The contents of SOURCE go into TARGET. Interrupted at any moment, the same command goes on.
    """

    def command(services: LocalServices) -> int:
        wanted = CopyOptions(
            delete=delete,
            delete_limit=parse_delete_limit(max_delete) if max_delete else DeleteLimit(),
            exclude=tuple(exclude or ()),
            algorithm=parse_algorithm(digest),
            verify=_copy_mode(verify, no_verify=no_verify, proof=proof),
            cache=cache,
        )
        trees = parse_source(source), parse_tree(target)
        services.reach_nodes(read_token(token_file), ca, certificate)
        if plan:
            return _show_plan(services, *trees, wanted, json=json, summary_only=summary)
        if nice:
            services.give_way()
        with session.progress(services, json=json, quiet=quiet) as listener:
            manner = Manner(
                jobs=parse_jobs(jobs),
                rate_bytes_per_s=parse_size(bwlimit, what="rate") if bwlimit else None,
                proof_path=proof.absolute() if proof else None,
                report_path=report_file.absolute() if report_file else None,
                listener=listener,
            )
            task = services.files.copy(*trees, wanted, manner)
        return report.finish(task, json=json, lines=report.copy_lines(task.result or {}))

    session.run(command, json=json)


def _copy_mode(
    verify: options.CopyVerification, *, no_verify: bool, proof: Path | None
) -> VerificationMode:
    mode = VerificationMode.NONE if no_verify else VerificationMode(verify.value)
    if mode is VerificationMode.NONE and proof is not None:
        raise InvalidRequestError(
            "there is no proof of a copy that is not verified",
            code="proof-needs-verification",
            advice="leave out --no-verify or --proof",
        )
    return mode


def _show_plan(
    services: LocalServices,
    source: bytes,
    target: bytes,
    wanted: CopyOptions,
    *,
    json: bool,
    summary_only: bool,
) -> int:
    summary, items, failures = services.files.plan(source, target, wanted)
    for item in () if summary_only else items:
        _show_item(item, json=json)
    result = {"plan": plain_object(summary), "findings": findings_result(failures)}
    if json:
        print_json({**result, "exit": int(report.exit_of(result))})
    else:
        for line in report.plan_lines(result):
            print(line)
    return int(report.exit_of(result))


def _show_item(item: PlanItem, *, json: bool) -> None:
    size_bytes = item.size_bytes if item.action is Action.FETCH else 0
    path = display_path(item.path)
    if json:
        session.print_line(
            {
                "path": path,
                "action": item.action.value,
                "reason": item.reason.value,
                "kind": item.kind.value,
                "sizeBytes": size_bytes,
            }
        )
    else:
        size = f"  {format_bytes(size_bytes)}" if size_bytes else ""
        print(printable(f"{item.action:<15} {item.reason:<18} {path}{size}"))


def verify(
    source: options.JudgeTree,
    target: options.JudgedTree = "",
    *,
    proof: options.ProofIn = None,
    key: options.Key = None,
    mode: options.Mode = options.TreeVerification.FULL,
    sample: options.Sample = None,
    seed: options.Seed = 0,
    one_way: options.OneWay = False,
    write_proof: options.WriteProof = None,
    exclude: options.Exclude = None,
    digest: options.DigestName = Algorithm.BLAKE3.value,
    cache: options.Cache = CacheUse.DROP,
    bwlimit: options.Rate = None,
    jobs: options.Jobs = None,
    nice: options.Nice = False,
    report_file: options.Report = None,
    token_file: options.TokenFile = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read TARGET and SOURCE again and tell every difference; or a tree and its proof.

    Exits with 3 if anything differs.
    """

    def command(services: LocalServices) -> int:
        _check_verify(target, proof, key, write_proof)
        services.reach_nodes(read_token(token_file), ca, certificate)
        sample_percent, sample_bytes = _parse_sample(sample)
        wanted = VerifyOptions(
            mode=_mode(mode, sample),
            one_way=one_way,
            exclude=tuple(exclude or ()),
            algorithm=parse_algorithm(digest),
            cache=cache,
            sample_seed=seed,
            sample_percent=sample_percent,
            sample_bytes=sample_bytes,
        )
        if nice:
            services.give_way()
        with session.progress(services, json=json, quiet=quiet) as listener:
            manner = Manner(
                jobs=parse_jobs(jobs, waits_for_disk=cache is CacheUse.DROP),
                rate_bytes_per_s=parse_size(bwlimit, what="rate") if bwlimit else None,
                prove=write_proof is not None,
                proof_path=write_proof.absolute() if write_proof else None,
                report_path=report_file.absolute() if report_file else None,
                listener=listener,
            )
            if proof is not None:
                public_key = read_public_key(key) if key else None
                tree = parse_tree(source)
                task = services.files.verify_proof(
                    proof.absolute(), tree, wanted, manner, public_key
                )
            else:
                trees = parse_source(source), parse_tree(target)
                task = services.files.verify(*trees, wanted, manner)
        result = task.result or {}
        lines = report.proof_tree_lines(result) if proof else report.verify_lines(result)
        return report.finish(task, json=json, lines=lines)

    session.run(command, json=json)


def _check_verify(
    target: str, proof: Path | None, key: str | None, write_proof: Path | None
) -> None:
    if (proof is None) == (not target):
        raise InvalidRequestError(
            "a verification takes SOURCE and TARGET, or --proof FILE and one tree",
            code="bad-trees",
            advice="see 'holdfast verify --help'",
        )
    if proof is None and key is not None:
        raise InvalidRequestError(
            "--key says who must have signed a proof", code="bad-key", advice="add --proof FILE"
        )
    if proof is not None and write_proof is not None:
        raise InvalidRequestError(
            "a proof is made of two trees, not of a tree and a proof",
            code="bad-trees",
            advice="leave out --write-proof; the proof at hand stays good",
        )


def _mode(mode: options.TreeVerification, sample: str | None) -> VerificationMode:
    return VerificationMode(mode.value) if sample is None else VerificationMode.SAMPLE


def _parse_sample(sample: str | None) -> tuple[float | None, int | None]:
    """Return a sample's percentage or its bytes; neither where no sample was asked for."""
    if sample is None:
        return None, None
    percent = parse_percent(sample)
    return percent, None if percent is not None else parse_size(sample, what="sample")


def repair(
    source: options.SourceTree,
    target: options.TargetTree,
    *,
    digest: options.DigestName = Algorithm.BLAKE3.value,
    cache: options.Cache = CacheUse.DROP,
    bwlimit: options.Rate = None,
    jobs: options.Jobs = None,
    nice: options.Nice = False,
    report_file: options.Report = None,
    token_file: options.TokenFile = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Mend what the last verification of this pair found: only that, block by block.

    Where that was nothing, it verifies first. What only TARGET has stays.
    """

    def command(services: LocalServices) -> int:
        wanted = VerifyOptions(algorithm=parse_algorithm(digest), cache=cache, one_way=True)
        services.reach_nodes(read_token(token_file), ca, certificate)
        if nice:
            services.give_way()
        with session.progress(services, json=json, quiet=quiet) as listener:
            manner = Manner(
                jobs=parse_jobs(jobs),
                rate_bytes_per_s=parse_size(bwlimit, what="rate") if bwlimit else None,
                prove=False,
                report_path=report_file.absolute() if report_file else None,
                listener=listener,
            )
            trees = parse_source(source), parse_tree(target)
            task = services.files.repair(*trees, wanted, manner)
        return report.finish(task, json=json, lines=report.repair_lines(task.result or {}))

    session.run(command, json=json)

"""Requests of migrations as JSON: parsed from outside with limits, spelt for the journal.

Unknown members are ignored, as Sidecar does; a wrong type or range is refused with the member's
name. What `as_json` returns is parsed to the same request, so a task is resumed from the journal.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from holdfast.errors import InvalidRequestError
from holdfast.files.migration.model import CopyRequest, RepairRequest, VerificationRequest
from holdfast.files.model import CacheUse, DeleteLimit
from holdfast.model.limits import JOBS_MAX, MIGRATION_PASSES_MAX
from holdfast.proof.digests import Algorithm
from holdfast.proof.statement import VerificationMode

_COUNT_MAX: Final = 1 << 62
_NAMES_MAX: Final = 256
_TEXT_MAX: Final = 256
_SEED_BITS: Final = 32

_ALGORITHMS: Final = {
    "md5": Algorithm.MD5,
    "xxhash32": Algorithm.XXH32,
    "xxh3_128": Algorithm.XXH3_128,
    "sha256": Algorithm.SHA256,
    "blake3": Algorithm.BLAKE3,
}
_MODES: Final = {mode.value: mode for mode in VerificationMode}

ValueT = TypeVar("ValueT")


def parse_digest_algorithm(text: str) -> Algorithm:
    """Return the algorithm a request names, in any case; InvalidRequestError (`bad-algorithm`)."""
    found = _ALGORITHMS.get(text.strip().lower())
    if found is not None:
        return found
    raise InvalidRequestError(
        f"{text[:100]!r} is not a digest algorithm",
        code="bad-algorithm",
        advice="choose one of MD5, XXHash32, XXH3_128, SHA256, BLAKE3",
    )


def parse_copy_request(body: Mapping[str, object]) -> CopyRequest:
    """Return a request for a copy; InvalidRequestError (`bad-request-body`, `bad-algorithm`)."""
    return CopyRequest(
        max_iterations=_need(body, "maxIterations", _whole(1, MIGRATION_PASSES_MAX)),
        success_threshold=_need(body, "successThreshold", _number(0.0, 1.0)),
        max_concurrency=_need(body, "maxConcurrency", _whole(1, JOBS_MAX)),
        delete_limit=DeleteLimit(
            count=_take(body, "maxDelete", _whole(0, _COUNT_MAX), None),
            percent=_take(body, "maxDeletePercent", _number(0.0, 100.0), None),
        ),
        allow_emptied=_take(body, "allowEmptied", _names, ()),
        algorithm=_take(body, "digestAlgorithm", _algorithm, Algorithm.BLAKE3),
        verify=_take(body, "verify", _mode, VerificationMode.NONE),
        rate_bytes_per_s=_take(body, "rateBytesPerSecond", _whole(1, _COUNT_MAX), None),
    )


def copy_request_as_json(request: CopyRequest) -> dict[str, object]:
    """Return a request as it is kept and parsed again."""
    return {
        "maxIterations": request.max_iterations,
        "successThreshold": request.success_threshold,
        "maxConcurrency": request.max_concurrency,
        "maxDelete": request.delete_limit.count,
        "maxDeletePercent": request.delete_limit.percent,
        "allowEmptied": list(request.allow_emptied),
        "digestAlgorithm": spell_algorithm(request.algorithm),
        "verify": request.verify.value,
        "rateBytesPerSecond": request.rate_bytes_per_s,
    }


def parse_verification_request(body: Mapping[str, object]) -> VerificationRequest:
    """Return a request for a verification; InvalidRequestError as parse_copy_request."""
    name = _need(body, "digestAlgorithm", _text)
    parse_digest_algorithm(name)
    request = VerificationRequest(
        max_concurrency=_need(body, "maxConcurrency", _whole(1, JOBS_MAX)),
        digest_algorithm=name,
        seed=_take(body, "seed", _seed, None),
        continue_on_metadata_mismatch=_take(body, "continueOnMetadataMismatch", _flag, False),
        mode=_take(body, "mode", _mode, VerificationMode.FULL),
        sample_percent=_take(body, "samplePercent", _number(0.0, 100.0), None),
        sample_bytes=_take(body, "sampleBytes", _whole(1, _COUNT_MAX), None),
        cache=_take(body, "cache", _cache, CacheUse.DROP),
        rate_bytes_per_s=_take(body, "rateBytesPerSecond", _whole(1, _COUNT_MAX), None),
    )
    is_sample = request.mode is VerificationMode.SAMPLE
    if request.mode is VerificationMode.NONE:
        raise _bad("mode", "full, incremental or sample")
    if is_sample != ((request.sample_percent is None) != (request.sample_bytes is None)):
        raise _bad("samplePercent", "given with mode sample only, or sampleBytes instead")
    return request


def verification_request_as_json(request: VerificationRequest) -> dict[str, object]:
    """Return a request as it is kept and parsed again."""
    return {
        "maxConcurrency": request.max_concurrency,
        "digestAlgorithm": request.digest_algorithm,
        "seed": request.seed,
        "continueOnMetadataMismatch": request.continue_on_metadata_mismatch,
        "mode": request.mode.value,
        "samplePercent": request.sample_percent,
        "sampleBytes": request.sample_bytes,
        "cache": request.cache.value,
        "rateBytesPerSecond": request.rate_bytes_per_s,
    }


def parse_repair_request(body: Mapping[str, object]) -> RepairRequest:
    """Return a request for a repair; InvalidRequestError as parse_copy_request."""
    return RepairRequest(
        verification_id=_need(body, "verificationId", _text),
        max_concurrency=_take(body, "maxConcurrency", _whole(1, JOBS_MAX), 2),
        rate_bytes_per_s=_take(body, "rateBytesPerSecond", _whole(1, _COUNT_MAX), None),
    )


def repair_request_as_json(request: RepairRequest) -> dict[str, object]:
    """Return a request as it is kept and parsed again."""
    return {
        "verificationId": request.verification_id,
        "maxConcurrency": request.max_concurrency,
        "rateBytesPerSecond": request.rate_bytes_per_s,
    }


def _need(body: Mapping[str, object], name: str, parse: Callable[[object], ValueT]) -> ValueT:
    value = body.get(name)
    if value is None:
        raise _bad(name, "given")
    return _parsed(name, value, parse)


def _take(
    body: Mapping[str, object], name: str, parse: Callable[[object], ValueT], default: ValueT
) -> ValueT:
    value = body.get(name)
    return default if value is None else _parsed(name, value, parse)


def _parsed(name: str, value: object, parse: Callable[[object], ValueT]) -> ValueT:
    try:
        return parse(value)
    except ValueError as error:
        raise _bad(name, str(error)) from error


def _bad(name: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name} must be {wanted}",
        code="bad-request-body",
        advice="correct it and send the request again",
        member=name,
    )


def _whole(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise ValueError(f"a whole number from {least} to {most}")

    return parse


def _number(least: float, most: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        # NaN lies in no range.
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and least <= value <= most
        ):
            return float(value)
        raise ValueError(f"a number from {least:g} to {most:g}")

    return parse


def _seed(value: object) -> int:
    """Take 32 bits, signed as Java has them or unsigned; returned unsigned."""
    half = 1 << (_SEED_BITS - 1)
    return _whole(-half, 2 * half - 1)(value) % (1 << _SEED_BITS)


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip() and len(value) <= _TEXT_MAX:
        return value
    raise ValueError(f"a text of 1 to {_TEXT_MAX} characters, not blank")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and len(value) <= _NAMES_MAX:
        return tuple(_text(name) for name in value)
    raise ValueError(f"a list of at most {_NAMES_MAX} texts")


def _algorithm(value: object) -> Algorithm:
    return parse_digest_algorithm(_text(value))


def _mode(value: object) -> VerificationMode:
    if isinstance(value, str) and value in _MODES:
        return _MODES[value]
    raise ValueError(f"one of {', '.join(_MODES)}")


def _cache(value: object) -> CacheUse:
    if isinstance(value, str) and value in (CacheUse.DROP.value, CacheUse.KEEP.value):
        return CacheUse(value)
    raise ValueError("drop or keep")


def spell_algorithm(algorithm: Algorithm) -> str:
    """Return the name of an algorithm as requests have it."""
    return next(name for name, found in _ALGORITHMS.items() if found is algorithm)

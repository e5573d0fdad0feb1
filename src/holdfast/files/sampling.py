"""Chooses which files a verification by sample reads."""

from dataclasses import dataclass

from holdfast.files.listing import Exclusions, Walk
from holdfast.files.model import VerifyOptions
from holdfast.files.rules import SAMPLE_BUCKETS, is_sampled, sample_bucket, sample_fraction
from holdfast.model.tree import FileKind
from holdfast.ports import ReadableDirectory
from holdfast.proof.statement import VerificationMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The files to read: this share of all, none larger than the budget."""

    fraction: float = 1.0
    seed: int = 0
    budget_bytes: int | None = None

    def holds(self, path: bytes, size_bytes: int) -> bool:
        """Say whether a file is to be read."""
        if self.fraction >= 1.0 and self.budget_bytes is None:
            return True
        if self.budget_bytes is not None and size_bytes > self.budget_bytes:
            return False
        return is_sampled(path, self.fraction, self.seed)


EVERYTHING = Sample()


def choose_sample(
    options: VerifyOptions, directory: ReadableDirectory, exclusions: Exclusions
) -> Sample:
    """Return the sample that was asked for; for a budget in bytes, by listing the tree first.

    Raises:
        InvalidRequestError: `bad-sample`.
    """
    if options.mode is not VerificationMode.SAMPLE:
        return EVERYTHING
    buckets = [0] * SAMPLE_BUCKETS
    budget_bytes = options.sample_bytes
    if budget_bytes is not None:
        # A file that fails here fails again, and is counted, in the walk that matters.
        walk = Walk(
            directory=directory,
            exclusions=exclusions,
            on_failure=lambda _path, _error: None,
        )
        for path, stat in walk:
            if stat.kind is FileKind.FILE and stat.size_bytes <= budget_bytes:
                buckets[sample_bucket(path, options.sample_seed)] += stat.size_bytes
    return Sample(
        fraction=sample_fraction(options.sample_percent, budget_bytes, buckets),
        seed=options.sample_seed,
        budget_bytes=budget_bytes,
    )

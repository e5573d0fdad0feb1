"""Repairs what a verification of an instance found, and verifies just that."""

from collections.abc import Mapping

from holdfast.errors import HoldfastError, StateError
from holdfast.files.ledger import Ledger
from holdfast.files.migration.model import (
    Instance,
    RepairRequest,
    SourcePeer,
    VerificationState,
)
from holdfast.files.migration.opening import (
    MigrationSurroundings,
    OpenDirectory,
    Opening,
    open_ledger_as_it_is,
    refuse_completed,
)
from holdfast.files.migration.outages import Outages
from holdfast.files.migration.rules import BEGINNINGS_MAX
from holdfast.files.migration.telling import Telling
from holdfast.files.model import OPEN, VerifyOptions, VerifyOutcome
from holdfast.files.repairing import REPAIRABLE
from holdfast.files.running import repair_pair
from holdfast.proof.digests import Algorithm
from holdfast.tasks.runner import TaskContext


class RepairRun:
    """One attempt of a repair. Owned by the thread of its task; run once."""

    def __init__(
        self,
        surroundings: MigrationSurroundings,
        instance: Instance,
        source: SourcePeer,
        request: RepairRequest,
        context: TaskContext,
    ) -> None:
        self._instance = instance
        self._request = request
        self._context = context
        self._opening = Opening(
            surroundings=surroundings,
            instance=instance,
            source=source,
            context=context,
            rate_bytes_per_s=request.rate_bytes_per_s,
            jobs=request.max_concurrency,
            make_roots=False,
        )
        names = [directory.name for directory in instance.directories]
        self._telling = Telling(context, surroundings.clock, names, dict)
        self._outages = Outages(self._telling, surroundings.clock, surroundings.entropy)
        self._was_heard = False
        """Whether the source was there when its trees were opened last."""

    def run(self) -> Mapping[str, object]:
        """Do it and return the result of the task; a source that is away is waited for.

        Raises:
            StateError: `results-replaced`: what that verification found is no longer known.
        """
        beginnings = 0
        while True:
            self._was_heard = False
            try:
                return self._run_once()
            except HoldfastError as error:
                beginnings += self._was_heard
                is_worth_it = self._outages.is_worth_waiting(error, was_heard=self._was_heard)
                if not is_worth_it or beginnings >= BEGINNINGS_MAX:
                    raise
                self._outages.sit_out(error)

    def _run_once(self) -> Mapping[str, object]:
        refuse_completed(self._instance)
        with self._opening.all(self._telling.of_directories, open_ledger_as_it_is) as opened:
            self._was_heard = True
            for each in opened:
                self._check_verification(each)
            done = [(each.directory.name, self._repair(each)) for each in opened]
            # What no repair is for, such as entries only at the target, does not count here.
            good = not any(_left(each.pair.ledger) for each in opened)
        state = VerificationState.COMPLETED if good else VerificationState.FAILED
        return {
            "state": state.value,
            "directories": [{"directory": name, **result} for name, result in done],
        }

    def _check_verification(self, opened: OpenDirectory) -> None:
        if opened.pair.ledger.get("verified by") != self._request.verification_id:
            raise StateError(
                f"what {self._request.verification_id} found of {opened.directory.name} is no "
                "longer known: a later task wrote over it, or it never came so far",
                code="results-replaced",
                advice="verify again, and repair what that finds",
            )

    def _repair(self, opened: OpenDirectory) -> Mapping[str, object]:
        ledger = opened.pair.ledger
        options = VerifyOptions(
            exclude=opened.exclude,
            algorithm=Algorithm(ledger.get("algorithm") or Algorithm.BLAKE3),
            digest_seed=int(ledger.get("seed") or 0),
        )
        ledger.set("planned by", self._context.task.id)
        return repair_pair(opened.pair, opened.target, ledger, options)


def _left(ledger: Ledger) -> bool:
    wanted: tuple[VerifyOutcome, ...] = (*REPAIRABLE, *OPEN, VerifyOutcome.SOURCE_DAMAGED)
    return bool(ledger.entries.findings(1, wanted) or ledger.plan.findings(1))

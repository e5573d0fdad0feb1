"""The OpenAPI description of the routes of checkpoints."""

from typing import Final

from holdfast import __version__
from holdfast.checkpoints.http import LOCK_DAYS_MAX, PAGE_MAX
from holdfast.checkpoints.http_plans import GRACE_S_MAX
from holdfast.checkpoints.http_requests import SIGNERS_MAX, TEXT_MAX
from holdfast.checkpoints.http_work import KEY_MAX, PREFIX
from holdfast.checkpoints.model import CheckpointState, Depth, Retention, Verdict
from holdfast.checkpoints.scheduling import ScheduledOperation
from holdfast.checkpoints.service import GRACE_S
from holdfast.model.limits import RESOURCES_MAX

Json = dict[str, object]

_TEXT: Final[Json] = {"type": "string"}
_OBJECT: Final[Json] = {"type": "object"}
_REFUSALS: Final = {
    "400": "The parameters or the body are wrong.",
    "404": "There is no such plan, checkpoint, schedule or bank.",
    "408": "The body did not come in time.",
    "409": "Another task is at work on it, or it is not in a state for this.",
    "413": "The body is too long.",
    "500": "What is stored is not what was stored, or the medium failed.",
    "503": "Busy or not able; nothing happened; try again.",
    "507": "The disk is full.",
}


_URL: Final[Json] = {
    "type": "string",
    "description": "An absolute path on the node's host, s3+https://HOST/BUCKET/PREFIX or "
    "swift:CONTAINER/PREFIX, without secrets: those come from the environment of the node only.",
}
_FLAG: Final[Json] = {"type": "boolean", "default": False}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_WHEN: Final[Json] = {"type": ["string", "null"], "description": "UTC; null for never."}
_PERCENT: Final[Json] = {
    "type": ["number", "null"],
    "exclusiveMinimum": 0,
    "maximum": 100,
    "description": "Read so much of it, the longest unread first.",
}
_RESOURCE_KEY: Final[Json] = {"type": "string", "description": "Only this one: Type#id."}


def _object(required: str = "", /, **properties: Json) -> Json:
    told: Json = {"type": "object", "properties": properties}
    return {**told, "required": required.split()} if required else told


def _list(of: Json, **limits: int) -> Json:
    return {"type": "array", "items": of, **limits}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def checkpoints_description() -> Json:
    """Return the description as OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast checkpoints", "version": __version__},
        "paths": {**_plan_paths(), **_checkpoint_paths(), **_bank_paths()},
        "components": {"schemas": _schemas()},
    }


def _plan_paths() -> Json:
    plan, parameters = f"{PREFIX}/plans/{{plan}}", _schema("ProtectionParameters")
    plans = _object("plans", plans=_list(_schema("ProtectionPlan")))
    schedules = _object("schedules", schedules=_list(_schema("ProtectionSchedule")))
    rules = _told("As a dry run: what would be kept or deleted, and why.", _schema("Fates"))
    retained = _started("Delete what the plan's rules do not keep.", {"dryRun": _FLAG})
    retained["responses"] = _member(rules, "responses") | _member(retained, "responses")
    return {
        f"{PREFIX}/plans": {
            "get": _told("Every plan.", plans),
            "post": _made(
                "Make a plan, and its bank where there is none; or change the plan of that name.",
                _schema("NewProtectionPlan"),
                _schema("ProtectionPlan"),
            ),
        },
        plan: _at(
            "plan",
            get=_told("The plan, by name or id.", _schema("ProtectionPlan")),
            delete=_told(
                "It is removed with its schedules; 409 while it has checkpoints.",
                _object("plan", plan=_TEXT),
            ),
        ),
        f"{plan}/protect": _at("plan", post=_started("Protect it.", {"parameters": parameters})),
        f"{plan}/retain": _at("plan", post=retained),
        f"{PREFIX}/schedules": {
            "get": _told("Every schedule, the next due first.", schedules),
            "post": _made(
                "Add a schedule.", _schema("NewProtectionSchedule"), _schema("ProtectionSchedule")
            ),
        },
        f"{PREFIX}/schedules/{{schedule}}": _at(
            "schedule", delete=_told("It is removed.", _object("id", id=_TEXT))
        ),
    }


def _checkpoint_paths() -> Json:
    one = f"{PREFIX}/checkpoints/{{id}}"
    verification: Json = {
        "depth": {"enum": [depth.value for depth in Depth]},
        "percent": _PERCENT,
        "resource": _RESOURCE_KEY,
    }
    restoration: Json = {
        "parameters": _schema("ProtectionParameters"),
        "resource": _RESOURCE_KEY,
        "force": _FLAG | {"description": "Also what the last verification found bad."},
    }
    days = {"type": "number", "minimum": 0, "maximum": LOCK_DAYS_MAX}
    held = _object(
        protected=_FLAG
        | {"description": "Hold it or release it; to lock it leaves that as it is."},
        lockDays=days | {"description": "Lock it for so many days; never shortened."},
    )
    page = _object(
        "checkpoints cursorNext",
        checkpoints=_list(_schema("Checkpoint")),
        cursorNext={"type": ["string", "null"]},
    )
    return {
        f"{PREFIX}/checkpoints": {"get": _told("A page, newest first.", page) | _page()},
        one: _at(
            "id",
            get=_told("The checkpoint with what its manifest says.", _schema("Checkpoint")),
            delete=_started("Delete it."),
        ),
        f"{one}/verify": _at("id", post=_started("Verify it.", verification)),
        f"{one}/restore": _at("id", post=_started("Restore it.", restoration)),
        f"{one}/protection": _at(
            "id",
            put=_with_body(
                _told("The checkpoint, held, locked or released.", _schema("Checkpoint")), held
            ),
        ),
    }


def _bank_paths() -> Json:
    signers = _list(_TEXT, maxItems=SIGNERS_MAX)
    signers["description"] = "Fingerprints of other keys of yours that signed manifests."
    grace: Json = {
        "type": "number",
        "minimum": 0,
        "maximum": GRACE_S_MAX,
        "default": GRACE_S,
        "description": "Younger chunks are left alone.",
    }
    examined: Json = {"bank": _URL, "signers": signers}
    swept: Json = {"bank": _URL, "graceSeconds": grace}
    healed: Json = {"bank": _URL, "from": _URL}
    return {
        f"{PREFIX}/banks/examine": {
            "post": _started("Compare catalogue and bank, make the catalogue right.", examined)
        },
        f"{PREFIX}/banks/sweep": {
            "post": _started("Delete chunks that no checkpoint needs.", swept)
        },
        f"{PREFIX}/banks/heal": {
            "post": _started("Store anew from another bank what is known to be bad.", healed)
        },
    }


def _schemas() -> Json:
    retention = _object(**dict.fromkeys(Retention.__dataclass_fields__, _COUNT))
    retention |= {"additionalProperties": False, "description": "Rules; 0 asks for nothing."}
    resource = _object(
        "type id",
        type=_TEXT | {"description": "Such as Holdfast::Directory."},
        id=_TEXT | {"description": "Of a directory: its absolute path on the node's host."},
        name=_TEXT,
        dependsOn=_list(_TEXT),
        parameters=_OBJECT | {"description": "Of its plug-in; such as exclude."},
    )
    wanted: dict[str, Json] = {
        "name": _TEXT | {"minLength": 1, "maxLength": TEXT_MAX},
        "bank": _URL,
        "keyId": _TEXT | {"description": "Of a key on the node's host; empty: not encrypted."},
        "resources": _list(resource, minItems=1, maxItems=RESOURCES_MAX),
        "retention": retention,
    }
    plan = _object(
        "id name bank bankId keyId resources retention createdAt",
        id=_TEXT,
        bankId=_TEXT,
        createdAt=_WHEN,
        **wanted,
    )
    fate = _object(
        "checkpoint createdAt keep reasons",
        checkpoint=_TEXT,
        createdAt=_WHEN,
        keep={"type": "boolean"},
        reasons=_list(_TEXT),
    )
    return {
        "StartedCheckpointTask": _object("taskId statusUrl", taskId=_TEXT, statusUrl=_TEXT),
        "ProtectionParameters": {
            "type": "object",
            "description": "Parameters of plug-ins: objects by type or Type#id of a resource.",
            "additionalProperties": _OBJECT,
        },
        "ProtectionPlan": plan,
        "NewProtectionPlan": _object("name bank resources", **wanted),
        "Fates": _object("dryRun fates", dryRun={"const": True}, fates=_list(fate)),
        "Checkpoint": _checkpoint(),
        **_schedule_schemas(),
    }


def _schedule_schemas() -> Json:
    wanted: dict[str, Json] = {
        "plan": _TEXT | {"description": "Name or id."},
        "operation": {"enum": [operation.value for operation in ScheduledOperation]},
        "cron": _TEXT | {"maxLength": TEXT_MAX, "description": "As in a crontab, in UTC."},
    }
    of_verification: dict[str, Json] = {
        "depth": {"enum": [*(depth.value for depth in Depth), None]},
        "percent": _PERCENT,
    }
    schedule = _object(
        "id plan operation cron parameters lastRunAt nextRunAt lastResult",
        id=_TEXT,
        parameters=_object(**of_verification),
        lastRunAt=_WHEN,
        nextRunAt=_WHEN,
        lastResult=_TEXT | {"description": "`success`, or why it failed; empty: never run."},
        **wanted,
    )
    return {
        "ProtectionSchedule": schedule,
        "NewProtectionSchedule": _object("plan cron", **wanted, **of_verification),
    }


def _checkpoint() -> Json:
    verified = _object(
        at=_WHEN,
        depth={"enum": [depth.value for depth in Depth]},
        verdict={"enum": [verdict.value for verdict in Verdict]},
        coveragePercent={"type": "number"},
        taskId=_TEXT,
        bad=_list(_TEXT),
    )
    texts = ("id", "plan", "planId", "bankId", "error", "taskId", "manifestDigest", "signer")
    counts = ("createdNs", "totalBytes", "addedBytes", "entries", "leftOutCount")
    members: dict[str, Json] = {
        **dict.fromkeys(texts, _TEXT),
        **dict.fromkeys(counts, _COUNT),
        "createdAt": _WHEN,
        "state": {"enum": [state.value for state in CheckpointState]},
        "protected": {"type": "boolean"},
        "lockedUntil": _WHEN,
        "verified": verified
        | {"type": ["object", "null"], "description": "The last verification; null: never."},
    }
    body = _OBJECT | {"description": "What its manifest says; only where one is asked for."}
    return _object(" ".join(members), **members, body=body)


def _member(document: Json, name: str) -> Json:
    found = document[name]
    assert isinstance(found, dict)
    return found


def _at(name: str, **operations: Json) -> Json:
    given = {"in": "path", "name": name, "required": True, "schema": _TEXT}
    return {"parameters": [given], **operations}


def _page() -> Json:
    schemas: dict[str, Json] = {
        "plan": _TEXT,
        "state": {"enum": [state.value for state in CheckpointState]},
        "verdict": {"enum": [verdict.value for verdict in Verdict]},
        "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX},
        "cursor": _TEXT,
    }
    return {
        "parameters": [
            {"in": "query", "name": name, "schema": schema} for name, schema in schemas.items()
        ]
    }


def _told(what: str, schema: Json) -> Json:
    return _operation(what, "200", schema)


def _made(what: str, body: Json, schema: Json) -> Json:
    return _with_body(_operation(what, "201", schema), body)


def _started(what: str, body: Json | None = None) -> Json:
    operation = _operation(what, "202", _schema("StartedCheckpointTask"))
    key: Json = {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "The same key with the same request gives the same task.",
        "schema": {"type": "string", "pattern": f"^[!-~]{{1,{KEY_MAX}}}$"},
    }
    operation["parameters"] = [key]
    return operation if body is None else _with_body(operation, _body(body))


def _body(members: Json) -> Json:
    required = [name for name in ("bank", "from") if name in members]
    told: Json = {"type": "object", "properties": members}
    return {**told, "required": required} if required else told


def _with_body(operation: Json, schema: Json) -> Json:
    content = {"application/json": {"schema": schema}}
    return operation | {"requestBody": {"required": "required" in schema, "content": content}}


def _operation(summary: str, status: str, schema: Json) -> Json:
    problem: Json = {"application/problem+json": {"schema": _OBJECT}}
    refusals = {code: {"description": text, "content": problem} for code, text in _REFUSALS.items()}
    done = {"description": summary, "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {status: done, **refusals}}

"""Which entries of an instance take no part: the same on listing, serving and deleting. Pure.

A placeholder names directories of the instance: `${DATA_FILE_DIR}` any of type data,
`${DATA_FILE_DIR_1}` the one of index 1, and likewise `${COMMITLOG_DIR}`, `${HINTS_DIR}`,
`${SAVED_CACHES_DIR}`, `${CDC_RAW_DIR}`, `${LOCAL_SYSTEM_DATA_FILE_DIR}` and, for a type of another
name, `${NAME_DIR}`. A pattern with a placeholder holds for those directories only, one without for
all.
"""

import re
from typing import Final

from holdfast.errors import InvalidRequestError
from holdfast.files.listing import Exclusions
from holdfast.files.migration.model import DirectoryKind, Instance, InstanceDirectory
from holdfast.files.patterns import ROOT_PLACEHOLDER, keep_pattern

_PLACEHOLDER: Final = re.compile(r"\$\{([^}]*)\}")
_STEMS: Final = {
    DirectoryKind.DATA.value: "DATA_FILE_DIR",
    DirectoryKind.LOCAL_SYSTEM_DATA.value: "LOCAL_SYSTEM_DATA_FILE_DIR",
}


def exclusions_of(instance: Instance, directory: InstanceDirectory) -> Exclusions:
    """Return what is excluded of one directory; InvalidRequestError (`bad-pattern`)."""
    return Exclusions(kept_patterns(instance, directory), directory.path)


def kept_patterns(instance: Instance, directory: InstanceDirectory) -> tuple[str, ...]:
    """Return the patterns that hold for a directory, as they are kept and told in proofs.

    Raises:
        InvalidRequestError: `bad-pattern`; also for a placeholder that names no type at all.
    """
    kept = []
    for texts, for_directories in (
        (instance.exclude_files, False),
        (instance.exclude_directories, True),
    ):
        for text in texts:
            resolved = _resolve(text, instance, directory)
            if resolved is not None:
                kept.append(keep_pattern(resolved, for_directories=for_directories))
    return tuple(kept)


def _resolve(text: str, instance: Instance, directory: InstanceDirectory) -> str | None:
    """Put the root for a placeholder of this directory; None if it names another."""
    own = _names_of(directory)
    known = {_stem_of(d.kind) for d in instance.directories} | {_stem_of(k) for k in DirectoryKind}
    for name in _PLACEHOLDER.findall(text):
        if name in own or name == "ROOT":
            continue
        if re.sub(r"_[0-9]+$", "", name) not in known:
            raise InvalidRequestError(
                f"the exclude pattern {text!r} names ${{{name}}}, which is no type of directory",
                code="bad-pattern",
                advice=f"use one of {', '.join(sorted(known))}, with _INDEX for one of several",
            )
        return None
    return _PLACEHOLDER.sub(lambda _: ROOT_PLACEHOLDER, text)


def _names_of(directory: InstanceDirectory) -> tuple[str, str]:
    stem = _stem_of(directory.kind)
    return stem, f"{stem}_{directory.index}"


def _stem_of(kind: str) -> str:
    return _STEMS.get(kind) or re.sub("[^A-Z0-9]", "_", kind.upper()) + "_DIR"

"""A Swift of three replicas for this folder; skipped, with the reason, where it cannot run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.swift.cluster import Cluster, find_swift

REPLICAS = 3


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    programs = find_swift()
    if programs is None:
        pytest.skip("no OpenStack Swift; 'make deps' installs it")
    directory = tmp_path_factory.mktemp("swift")
    _check_xattrs(directory)
    cluster = Cluster(programs, directory, REPLICAS)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _check_xattrs(directory: Path) -> None:
    try:
        os.setxattr(directory, "user.holdfast", b"x")
    except OSError as error:
        pytest.skip(f"Swift needs extended attributes: {error.strerror}")

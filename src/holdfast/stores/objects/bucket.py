"""An object store in a bucket of S3 or of what speaks its language, through obstore.

The library retries what may be retried, within `timeout_s`. A create-only put whose reply was lost
is then answered EXISTS although it was ours: whoever creates compares what is there.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import S3Store

from holdfast.errors import CapacityError, DeniedError, NotFoundError, UnavailableError
from holdfast.model.objects import check_object_name
from holdfast.ports import Buffer, ObjectInfo, PutOutcome
from holdfast.stores.objects.s3_signature import S3Keys


class BucketObjects:
    """ObjectStore below a URL of the form SCHEME://HOST/BUCKET/PREFIX, path style."""

    is_forkable = False

    def __init__(self, url: str, keys: S3Keys, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        bucket, _, prefix = parts.path.strip("/").partition("/")
        self._url = url
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=f"{parts.scheme}://{parts.netloc}",
            access_key_id=keys.access_key,
            secret_access_key=keys.secret_key,
            region=keys.region,
            virtual_hosted_style_request=False,
            skip_signature=not keys.access_key,
            client_options={
                "allow_http": True,
                "timeout": timedelta(seconds=timeout_s),
                "connect_timeout": timedelta(seconds=min(10.0, timeout_s)),
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=timeout_s)},
        )

    def describe(self) -> str:
        """See ObjectStore."""
        return self._url

    def put(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        check_object_name(name)
        try:
            obstore.put(self._store, name, data, use_multipart=False)
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, name)

    def create(self, name: str, data: Buffer) -> PutOutcome:
        """See ObjectStore."""
        check_object_name(name)
        try:
            obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return PutOutcome.EXISTS
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, name)
        return PutOutcome.CREATED

    def stage(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        self.put(name, data)

    def settle(self) -> None:
        """See ObjectStore."""

    def get(self, name: str, limit_bytes: int) -> bytes:
        """See ObjectStore."""
        check_object_name(name)
        try:
            answer = obstore.get(self._store, name)
            size_bytes = answer.meta["size"]
            if size_bytes > limit_bytes:
                raise CapacityError(
                    f"the object {name} has {size_bytes} bytes, over {limit_bytes}",
                    code="object-too-long",
                    advice="something else wrote it; look at the store",
                )
            return bytes(answer.bytes())
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, name)

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """See ObjectStore."""
        found = self.head(name)
        if found is None:
            _raise_missing(name)
        end = min(end, found.size_bytes)
        if end <= start:
            return b""
        try:
            return bytes(obstore.get_range(self._store, name, start=start, end=end))
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, name)

    def head(self, name: str) -> ObjectInfo | None:
        """See ObjectStore."""
        check_object_name(name)
        try:
            meta = obstore.head(self._store, name)
        except (exceptions.NotFoundError, FileNotFoundError):
            return None
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, name)
        return ObjectInfo(name, meta["size"], int(meta["last_modified"].timestamp() * 1e9))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        yield from self._list(prefix.rpartition("/")[0], prefix, after)

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        check_object_name(name)
        try:
            obstore.delete(self._store, name)
        except (exceptions.NotFoundError, FileNotFoundError):
            return
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, name)

    def tidy(self, before_ns: int) -> int:  # noqa: ARG002 nothing is left half put
        """See ObjectStore."""
        return 0

    def close(self) -> None:
        """See ObjectStore."""

    def _list(self, directory: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        # Level by level: not every store lists whole names in the order of their bytes.
        try:
            level = obstore.list_with_delimiter(self._store, directory or None)
        except (exceptions.BaseError, OSError) as error:
            _raise_translated(error, directory)
        # Some stores show a directory they made as an object of its own.
        below = directory + "/" if directory else ""
        found = {m["path"]: m for m in level["objects"] if m["path"].startswith(below)}
        for name in sorted([*found, *(path + "/" for path in level["common_prefixes"])]):
            if name[-1] == "/":
                is_asked = name.startswith(prefix) or prefix.startswith(name)
                if is_asked and (name > after or after.startswith(name)):
                    yield from self._list(name[:-1], prefix, after)
            elif name.startswith(prefix) and name > after:
                meta = found[name]
                modified_ns = int(meta["last_modified"].timestamp() * 1e9)
                yield ObjectInfo(name, meta["size"], modified_ns)


def _raise_translated(error: Exception, name: str) -> NoReturn:
    if isinstance(error, exceptions.NotFoundError | FileNotFoundError):
        _raise_missing(name)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        raise DeniedError(
            f"the store does not let this key touch {name}",
            code="store-denied",
            advice="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
        ) from None
    # The kind only: a message of the library quotes what was sent and received.
    raise UnavailableError(
        f"the store failed on {name} ({type(error).__name__})",
        code="store-unreachable",
        advice="check that it runs and that the bucket exists, then run it again",
    ) from error


def _raise_missing(name: str) -> NoReturn:
    raise NotFoundError(
        f"there is no object {name}",
        code="no-object",
        advice="see 'holdfast checkpoints doctor'",
    ) from None

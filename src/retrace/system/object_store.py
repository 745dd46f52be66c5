"""A folder in an S3 store, by way of s3fs, which `retrace[s3]` installs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrace.errors import DataError
from retrace.system import files

SCHEME = "s3://"
VARIABLES = "AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
# A store that is down must not keep a stage for long when it ends.
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 1}}


class ObjectStore:
    """The files of one folder in S3. All failures are raised as DataError.

    The credentials, and the address of a store of one's own, are in boto's environment variables.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        try:
            import s3fs  # takes time to import
        except ImportError:
            missing = "s3fs is not installed; `pip install 'retrace[s3]'` installs it"
            raise DataError(f"{self.address}: {missing}") from None
        self._files: Any = s3fs.S3FileSystem(
            config_kwargs=TIMEOUTS, use_listings_cache=False, skip_instance_cache=True
        )
        self._files.retries = 1

    def names(self) -> list[str]:
        """Return the names of the files in the folder, sorted."""
        with self._failures():
            try:
                paths = self._files.ls(self.address, detail=False, refresh=True)
            except FileNotFoundError:
                return []
        names = (path.rpartition("/")[2] for path in paths)
        return sorted(name for name in names if name)  # some stores list the folder itself

    def upload(self, path: Path) -> None:
        """Copy a file into the folder."""
        with self._failures():
            self._files.put_file(str(path), self._address(path.name))

    def download(self, path: Path) -> None:
        """Copy the file with the name of `path` from the folder to `path`."""
        with files.atomic(path) as unfinished, self._failures():
            self._files.get_file(self._address(path.name), str(unfinished))

    def delete(self, name: str) -> None:
        """Delete a file of the folder, if it is there."""
        with self._failures():
            self._files.rm_file(self._address(name))

    def _address(self, name: str) -> str:
        return f"{self.address}/{name}"

    @contextmanager
    def _failures(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError  # s3fs raises OSError for all other failures

        try:
            yield
        except (OSError, BotoCoreError) as error:
            reason = " ".join(str(error).split())
            remedy = f"check the address, and {VARIABLES}"
            raise DataError(f"{self.address}: {reason}; {remedy}") from None

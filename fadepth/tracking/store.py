"""MLflow's stores: opening them, one writer at a time, and failures told in one sentence."""

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

#: MLflow tries for minutes to reach a server, and libpq for ever; a mirror can be filled later.
#: What the user sets counts.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "PGCONNECT_TIMEOUT": "10",
}
#: Until a server has answered once.
_FIRST_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
#: Any number that others do not take: PostgreSQL's advisory locks are shared by a whole database.
_LOCK_NUMBER = 2405_10885


_DATABASES = "sqlite|postgresql|mysql|mssql"


def database_file(store: str) -> Path | None:
    """Absolute path of a SQLite store's file; None for any other store."""
    if not re.match(r"sqlite(\+\w+)?:", store):
        return None
    match = re.fullmatch(r"sqlite(\+\w+)?:///(?P<path>[^?]+)", store)
    if match is None:
        raise FadepthError(f"store '{store}' names no file: write it as sqlite:///mlflow.db")
    return Path(match["path"]).resolve()


def store_uri(store: str) -> str:
    """Return the store with an absolute path, independent of the working directory."""
    path = database_file(store)
    return store if path is None else f"sqlite:///{path}"


def is_server(store: str) -> bool:
    """Whether the store is an MLflow server, which shows its own pages."""
    return store.startswith(("http://", "https://"))


def is_database(store: str) -> bool:
    """Whether this process writes into a database itself; MLflow has no other such stores."""
    return re.match(rf"({_DATABASES})(\+\w+)?:", store) is not None


def _check_address(store: str) -> None:
    if not re.match(rf"({_DATABASES})(\+\w+)?:|https?://|databricks", store):
        raise FadepthError(
            f"store '{without_password(store)}' is none that MLflow writes to: expected "
            "sqlite:///FILE, http://HOST:PORT or postgresql://USER@HOST/DATABASE"
        )


def without_password(store: str) -> str:
    """The store's address as it may be shown."""
    return re.sub(r"(?<=://)([^/:@\s]*):[^\s/]*@", r"\1:***@", store)


@contextlib.contextmanager
def writing(store: str, runs: Path) -> Iterator["MlflowClient"]:
    """A client of the store, made where it is not there, while nobody else here writes to it.

    Raises:
        FadepthError: the store cannot be opened, or refuses what is written into it.
    """
    _check_address(store)
    with _failures_told(store), _only_writer(store, runs):
        yield open_store(store)


def open_store(store: str) -> "MlflowClient":
    """Open a store; a database server's schema is made where it is not there.

    Raises:
        FadepthError: it is not there, not MLflow's, or does not answer.
    """
    _check_address(store)
    path = database_file(store)
    if path is not None and not path.exists():
        raise FadepthError(f"{path} does not exist: fill it from runs/ with 'fadepth track'")
    mlflow = _import_mlflow()
    try:
        with _impatient():
            if is_database(store):
                # MLflow itself would try for two minutes.
                with _connection(store):
                    pass
            client: MlflowClient = mlflow.tracking.MlflowClient(tracking_uri=store_uri(store))
            client.search_experiments(max_results=1)
    except Exception as error:
        # SQLAlchemy, alembic, HTTP and drivers each have their own exceptions.
        raise _failure(store, "cannot be opened", error) from error
    return client


@contextlib.contextmanager
def _only_writer(store: str, runs: Path) -> Iterator[None]:
    """One replay at a time: of a project into any store, and of all into a database.

    Several processes that open a fresh database together break its schema.
    """
    path = database_file(store)
    lock = runs / ".mlflow.lock" if path is None else path.with_name(f"{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(lock))
        if store.startswith("postgresql"):
            stack.enter_context(_locked_postgresql(store))
        if path is not None and not path.exists():
            _create_database(path)
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another replay to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _locked_postgresql(store: str) -> Iterator[None]:
    """The database's own lock: it holds across hosts, and goes with the connection."""
    _import_mlflow()
    from sqlalchemy import text

    key = {"key": _LOCK_NUMBER}
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(_connection(store))
            taken = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar()
        except Exception as error:
            raise _failure(store, "cannot be opened", error) from error
        if not taken:
            log.info("waiting for another replay to end")
            connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
        yield


@contextlib.contextmanager
def _connection(store: str) -> Iterator["Connection"]:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(store_uri(store), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def _create_database(path: Path) -> None:
    """Create and migrate the schema in another folder, so that a kill leaves no half database."""
    mlflow = _import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    prefix = f"{path.name}.unfinished-"
    for left in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        # Never the same name twice: MLflow keeps connections to a file that is gone.
        with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            artifacts = (path.parent / "mlartifacts").as_uri()
            SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts).engine.dispose()
            os.replace(unfinished, path)
    except (mlflow.exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        raise _failure(f"sqlite:///{path}", "cannot be created", error) from error


def _import_mlflow() -> Any:
    # The first two are read at import. Without the first every process looks up a telemetry host.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Two lines for each run of a server.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for key, value in _PATIENCE.items():
        os.environ.setdefault(key, value)
    import mlflow.tracking

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # What these two tell, with traces, is told in one sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return mlflow


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Fewer and shorter tries, except where the user says how many."""
    before = {key: os.environ[key] for key in _FIRST_PATIENCE}
    ours = {key for key, value in before.items() if value == _PATIENCE[key]}
    os.environ.update({key: _FIRST_PATIENCE[key] for key in ours})
    try:
        yield
    finally:
        os.environ.update(before)


@contextlib.contextmanager
def _failures_told(store: str) -> Iterator[None]:
    _import_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise _failure(store, "could not be filled", error) from error


def _failure(store: str, what: str, error: Exception) -> FadepthError:
    shown = without_password(store)
    if isinstance(error, ImportError):
        hint = " (pip install psycopg2-binary)" if store.startswith("postgresql") else ""
        return FadepthError(f"the store {shown} needs a driver: {error}{hint}")
    again = "once that is mended, 'fadepth track' brings it up to date from runs/"
    if database_file(store) is not None and what == "cannot be opened":
        again = "if it is broken, delete it and run 'fadepth track' again"
    return FadepthError(f"the MLflow store {shown} {what} ({_reason(error)}): {again}")


def _reason(error: Exception) -> str:
    """The cause in few words: a library's own sentence wraps it in several others."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if match := re.search(r"\[Errno -?\d+\] (?P<cause>[^'\"()\[\]]+)", text):
        return match["cause"].strip()
    if "timed out" in text:
        return "no answer in time"
    if match := re.search(r"(\([\w.]+Error\) |Caused by )(?P<cause>.+)", text):
        return match["cause"][:200]
    lines = text.splitlines()
    return lines[0][:200] if lines else type(error).__name__

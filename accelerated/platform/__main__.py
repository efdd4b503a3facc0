"""`python -m accelerated.platform`: the server, and the worker, which is restarted whenever it ends."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

try:
    import uvicorn  # noqa: F401 (its own needs get this line, too)
    from sqlalchemy import func, select

    from . import web  # noqa: F401 (its own needs get this line, too)
except ImportError as error:
    sys.exit(
        f"error: the platform needs {error.name}, which comes with the extra 'platform': pip install -e '.[platform]'"
    )

from ..checks import InputError
from ..run import parse
from . import accounts, copies, identity, worker
from .database import Database, Record
from .executors import executor_of
from .options import PlatformOptions, checked
from .records import ACTIVE
from .refusals import Refused

PROGRAM = "python -m accelerated.platform"


def tend(options: PlatformOptions, stopping: threading.Event) -> None:
    """Keep one worker running until the server stops."""
    command = [sys.executable, "-m", "accelerated.platform", *replace(options, worker=os.getpid()).arguments()]
    while not stopping.is_set():
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            print(f"server: the worker cannot be started, trying again: {error}", file=sys.stderr)
            stopping.wait(5)
            continue
        while process.poll() is None and not stopping.wait(0.2):
            pass
        if process.poll() is None:
            process.terminate()
            process.wait()
        stopping.wait(1)  # a worker that fails at once must not occupy the processor


def address(options: PlatformOptions) -> str:
    """The address of the server for a browser on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(options.host, options.host)
    return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{options.port}{options.path}"


def serve(options: PlatformOptions) -> None:
    """Migrate the database, print the address, and serve until Ctrl-C."""
    from . import app, serving

    database = Database(options.database)
    database.migrate()
    executor_of(options)
    identity.belong(options, database)
    if options.new_password:
        with database.begin() as db:
            secret = accounts.renew(db, options.new_password)
        print(f"with this link, {options.new_password} can set a new password; it works once:")
        print(f"  {address(options)}/invitations/{secret}")
        return
    if options.backup:
        print(f"{options.backup} holds {copies.backup(options, database)} records")
        return
    if options.copy_database:
        print(f"{copies.database(options, database)} records are in the other database: give its DATABASE_URL now")
        return
    server = serving.server(options, app.make(options, database))
    sockets = [_bound_socket(server, options)]
    _announce(options, database)
    stopping = threading.Event()
    tending = threading.Thread(target=tend, args=(options, stopping), daemon=True)
    tending.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets)
    finally:
        stopping.set()
        tending.join(10)
        with contextlib.suppress(Exception), database.begin() as db:
            active = db.scalar(select(func.count()).select_from(Record).where(Record.state.in_(ACTIVE)))
            if active:
                print(f"{active} running job{'s' if active > 1 else ''} will continue; restart to see or stop them")


def _bound_socket(server, options):
    try:
        bound = server.config.bind_socket()
        bound.listen(128)  # connections wait here until the server is ready
    except SystemExit:
        raise InputError(f"port {options.port} of {options.host} is not free: choose another --port") from None
    return bound


def _announce(options, database):
    with database.begin() as db:
        secret = accounts.first_invitation(db)
    print(f"isospike's platform is open at {address(options)}, its data is in {options.home}")
    if secret:
        print("there is no administrator yet; this link makes the first user the administrator, and works once:")
        print(f"  {address(options)}/invitations/{secret}")
    print("Ctrl-C ends it", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        os.umask(0o077)
        options = checked(parse(PlatformOptions, sys.argv[1:] if arguments is None else arguments, PROGRAM))
        if options.worker:
            with contextlib.suppress(KeyboardInterrupt):
                worker.serve(options)
        else:
            serve(options)
    except (InputError, Refused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m accelerated.platform`: the server, and beside it the worker, started again whenever it ends."""

import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import replace

import uvicorn
from sqlalchemy import func, select

from ..checks import InputError
from ..run import parse
from . import accounts, worker
from .database import Database, Record
from .options import Options, checked
from .records import ACTIVE
from .refusals import Refused

PROGRAM = "python -m accelerated.platform"


def tend(options, stopping):
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
        stopping.wait(1)  # a worker that cannot begin must not take the processor


def address(options):
    """Where a browser on this machine finds the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(options.host, options.host)
    return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{options.port}"


class Server(uvicorn.Server):
    """A server that lets its event streams end before it does."""

    def handle_exit(self, sig, frame):
        """Ctrl-C, or another signal to end."""
        self.config.app.state.closing = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def serve(options):
    """Migrate, say where to go, serve until Ctrl-C."""
    from . import app

    database = Database(options.database)
    database.migrate()
    if options.new_password:
        with database.begin() as db:
            secret = accounts.renew(db, options.new_password)
        print(f"with this link, {options.new_password} sets a new password, once:")
        print(f"  {address(options)}/invitations/{secret}")
        return
    with database.begin() as db:
        secret = accounts.first_invitation(db)
    server = Server(uvicorn.Config(app.make(options, database), options.host, options.port, log_level="warning",
                                           timeout_graceful_shutdown=2, server_header=False))  # fmt: skip
    try:
        sockets = [server.config.bind_socket()]
        sockets[0].listen(128)  # whoever comes before the first answer waits
    except SystemExit:
        raise InputError(f"port {options.port} of {options.host} is not free: choose another --port") from None
    print(f"isospike's platform is open at {address(options)}, its data is in {options.home}")
    if secret:
        print(f"nobody administrates it yet; this link makes you do, once:\n  {address(options)}/invitations/{secret}")
    print("Ctrl-C ends it", flush=True)
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
                print(f"{active} running job{'s go' if active > 1 else ' goes'} on; start again to see or stop them")


def main(arguments=None):
    """Run the command line; returns the exit status."""
    try:
        os.umask(0o077)
        options = checked(parse(Options, sys.argv[1:] if arguments is None else arguments, PROGRAM))
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

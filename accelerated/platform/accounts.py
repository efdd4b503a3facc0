"""Users, invitations, sessions that can be revoked, and limits on failed attempts."""

import contextlib
import hashlib
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence

from confusable_homoglyphs import confusables
from pwdlib import PasswordHash
from sqlalchemy import delete, func, orm, select, update
from sqlalchemy.exc import OperationalError
from zxcvbn import zxcvbn

from .database import Attempt, Database, Invitation, Record, Session, User, changed
from .refusals import Refused

DAY = 86400.0
SESSION = 14 * DAY  # seconds
INVITATION = 7 * DAY
WINDOW = 900.0  # the time within which failed log-ins are counted
ATTEMPTS = 5  # failed log-ins within a window, of one name from one address
ATTEMPTS_OF_ONE = 200  # of one name from anywhere
ATTEMPTS_FROM_ONE = 50  # of any names from one address, or as many as all users have together: a room may share one
JOINING = 100  # accounts that may be made from one address within a window, where anyone can make one
AT_ONCE = 2  # hashes that are computed at once (each takes 64 MiB)
PATIENCE = 10.0  # seconds that other log-ins wait
LEAST = 8  # characters of a password
MOST = 200
FIRST_GUESSES = 1000  # among so many passwords that are tried first, one is refused
WRONG = "The name or the password is wrong."

hasher = PasswordHash.recommended()
NOBODY = hasher.hash(secrets.token_hex())  # so that an unknown name takes as long as a wrong password


_turns = threading.BoundedSemaphore(AT_ONCE)


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Wait for a turn to compute a hash, which is slow and large on purpose; Refused if that takes too long."""
    if not _turns.acquire(timeout=PATIENCE):
        raise Refused("Too many people are logging in: try again in a moment.", status=429)
    try:
        yield
    finally:
        _turns.release()


def digest(secret: str) -> str:
    """The hash of a random secret, which the database keeps in its place."""
    return hashlib.sha256(secret.encode()).hexdigest()


def name_of(text: str) -> str:
    """A user's name as it is stored; Refused if it is not valid."""
    if not re.fullmatch(r"[\w.@+-]{1,64}", text := unicodedata.normalize("NFKC", text).strip().casefold()):
        raise Refused("A name has 1 to 64 letters, digits or . @ + - _", field="name")
    return text


def looks(name: str) -> str:
    """A name with Latin letters for those of other alphabets that look like them: equal for names that look alike."""
    found = confusables.is_confusable(name, greedy=True, preferred_aliases=["latin"]) or []
    alike = {one["character"]: other["c"] for one in found for other in one["homoglyphs"] if other["c"].isascii()}
    return "".join(alike.get(letter, letter) for letter in name).casefold()


def _hash(password, name):
    if not LEAST <= len(password) <= MOST or password.casefold() == name:
        raise Refused("A password has 8 to 200 characters and must differ from the name.", field="password")
    if zxcvbn(password[:64], [name])["guesses"] < FIRST_GUESSES:
        raise Refused("Whoever tries passwords tries this one among the first: choose another.", field="password")
    with computing():
        return hasher.hash(password)


def invite(
    db: orm.Session, administrator: bool = False, note: str = "", user_id: int | None = None, uses: int = 1
) -> str:
    """The secret of a new invitation, which makes as many accounts as `uses` says."""
    secret = secrets.token_urlsafe(24)
    now = time.time()
    db.execute(delete(Invitation).where(Invitation.expires < now))
    db.add(Invitation(id=digest(secret), administrator=administrator, note=note[:200], user_id=user_id,
                      uses=uses, expires=now + INVITATION))  # fmt: skip
    return secret


def first_invitation(db: orm.Session) -> str | None:
    """The secret that makes the administrator, or None if there is one; it replaces an earlier one."""
    if db.scalar(select(func.count()).select_from(User).where(User.administrator)):
        return None
    db.execute(delete(Invitation).where(Invitation.administrator))
    return invite(db, administrator=True)


def invitation(db: orm.Session, secret: str) -> Invitation | None:
    """The invitation of a secret that is still valid, or None."""
    found = db.get(Invitation, digest(secret))
    return found if found and found.expires > time.time() else None


def open_links(db: orm.Session) -> Sequence[Invitation]:
    """Invitations, and links for a new password, that can still be used."""
    return db.scalars(select(Invitation).where(Invitation.expires > time.time()).order_by(Invitation.expires)).all()


def register(db: orm.Session, name: str, password: str, administrator: bool = False) -> User:
    """A new user; Refused if the name is taken or not valid."""
    name = name_of(name)
    hashed = _hash(password, name)
    if looks(name) in map(looks, db.scalars(select(User.name))):
        raise Refused("This name is taken.", field="name")
    user = User(name=name, password=hashed, administrator=administrator)
    db.add(user)
    db.flush()
    return user


def renew(db: orm.Session, name: str) -> str:
    """The secret with which a user sets a new password; earlier ones no longer work."""
    user = db.scalar(select(User).where(User.name == name.strip().casefold()))
    if user is None:
        raise Refused("There is no such user.", status=404)
    db.execute(delete(Invitation).where(Invitation.user_id == user.id))
    return invite(db, user_id=user.id)


def disable(db: orm.Session, number: int) -> None:
    """End a user's sessions and password; a new link enables the account again. Its records stay."""
    db.execute(update(User).where(User.id == number).values(password=""))
    db.execute(delete(Session).where(Session.user_id == number))
    db.execute(delete(Invitation).where(Invitation.user_id == number))


def leave(db: orm.Session, number: int) -> None:
    """Delete a user with all records; the worker does it, as soon as their jobs have ended."""
    disable(db, number)
    db.execute(update(User).where(User.id == number).values(leaving=True))
    db.execute(update(Record).where(Record.user_id == number).values(request="delete"))
    waiting = update(Record).where(Record.user_id == number, Record.state == "queued")
    db.execute(waiting.values(state="stopped", ended=time.time()))


def _renewed(db, found, password):
    user = db.get(User, found.user_id)
    user.password = _hash(password, user.name)
    db.execute(delete(Session).where(Session.user_id == user.id))
    db.execute(delete(Attempt).where(Attempt.name == user.name))
    return user


def accept(db: orm.Session, secret: str, name: str, password: str) -> User:
    """The user that an invitation makes, or whose password it renews; it works as often as it says."""
    found = invitation(db, secret)
    if found is None:
        raise Refused("This link has already been used or has expired: ask for a new one.", status=404)
    user = _renewed(db, found, password) if found.user_id else register(db, name, password, found.administrator)
    left = update(Invitation).where(Invitation.id == found.id, Invitation.uses > 0)
    if not changed(db, left.values(uses=Invitation.uses - 1)):
        raise Refused("This link has already been used or has expired: ask for a new one.", status=404)
    db.execute(delete(Invitation).where(Invitation.uses < 1))
    return user


def log_in(database: Database, name: str, password: str, address: str) -> User:
    """The user with this name and password; Refused with the same sentence for a wrong name and a wrong password."""
    name = name.strip().casefold()[:64]
    with database.begin() as db:
        db.execute(delete(Attempt).where(Attempt.at < time.time() - WINDOW))
        attempted(db, name, address)
        user = db.scalar(select(User).where(User.name == name))
    known = user if user and user.password else None
    with computing():
        right = hasher.verify(password[:MOST], known.password if known else NOBODY)
    if not right or not known:
        raise Refused(WRONG, status=401)
    with database.begin() as db:
        db.execute(delete(Attempt).where(Attempt.name == name, Attempt.address == address))
    return known


def attempted(db: orm.Session, name: str, address: str, most: int = ATTEMPTS) -> None:
    """Count an attempt before it is made, so that attempts at once are counted too. Refused if there were too many.

    Of one name from one address there are `most`; from one address as many as all its users could make together.
    """

    def count(*conditions):
        return db.scalar(select(func.count()).select_from(Attempt).where(*conditions))

    of_name = Attempt.name == name
    from_address = Attempt.address == address
    users = db.scalar(select(func.count()).select_from(User)) or 0
    room = max(ATTEMPTS_FROM_ONE, most * users)
    if (count(of_name, from_address) >= most or count(of_name) >= ATTEMPTS_OF_ONE
            or count(from_address) >= room):  # fmt: skip
        raise Refused("Too many attempts: try again in 15 minutes.", status=429)
    db.add(Attempt(name=name, address=address))


def change_password(db: orm.Session, user: User, old: str, new: str, keep: str) -> None:
    """Set a new password, and end all sessions but the one whose cookie is `keep`."""
    with computing():
        right = hasher.verify(old[:MOST], user.password)
    if not right:
        raise Refused("That is not your password.", field="old")
    db.execute(update(User).where(User.id == user.id).values(password=_hash(new, user.name)))
    db.execute(delete(Session).where(Session.user_id == user.id, Session.id != digest(keep)))


def open_session(db: orm.Session, user: User, agent: str) -> str:
    """The cookie of a new session."""
    secret = secrets.token_urlsafe(32)
    db.execute(delete(Session).where(Session.created < time.time() - SESSION))
    db.add(Session(id=digest(secret), user_id=user.id, agent=agent[:200]))
    return secret


def who(db: orm.Session, secret: str) -> User | None:
    """The user of a cookie, or None."""
    found = db.get(Session, digest(secret)) if secret else None
    if found is None or found.created < time.time() - SESSION:
        return None
    if found.seen < time.time() - 60:
        with contextlib.suppress(OperationalError), db.begin_nested():  # a full disk must not lock anyone out
            found.seen = time.time()
            db.flush()
    return found.user


def end_session(db: orm.Session, secret: str) -> None:
    """Log out."""
    db.execute(delete(Session).where(Session.id == digest(secret)))

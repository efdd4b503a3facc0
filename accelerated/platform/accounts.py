"""Who may do what: users, invitations, sessions that can be revoked, attempts that are limited."""

import contextlib
import hashlib
import re
import secrets
import threading
import time

from pwdlib import PasswordHash
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import OperationalError

from .database import Attempt, Invitation, Session, User
from .refusals import Refused

DAY = 86400.0
SESSION, INVITATION, WINDOW = 14 * DAY, 7 * DAY, 900.0  # seconds that each lasts
ATTEMPTS = 5  # failed log-ins within a window, of one name from one address
ATTEMPTS_OF_ONE, ATTEMPTS_FROM_ONE = 200, 50  # of one name from anywhere; of any names from one address
AT_ONCE, PATIENCE = 2, 10.0  # hashes that are computed at once (each takes 64 MiB); seconds that others wait
LEAST, MOST = 8, 200  # letters of a password
WRONG = "The name or the password is wrong."

hasher = PasswordHash.recommended()
NOBODY = hasher.hash(secrets.token_hex())  # so that an unknown name takes as long as a wrong password


_turns = threading.BoundedSemaphore(AT_ONCE)


@contextlib.contextmanager
def computing():
    """A turn to compute a hash, which takes memory and time on purpose; Refused if it does not come soon."""
    if not _turns.acquire(timeout=PATIENCE):
        raise Refused("Too many people are logging in: try again in a moment.", status=429)
    try:
        yield
    finally:
        _turns.release()


def digest(secret):
    """What the database keeps of a secret that is random already."""
    return hashlib.sha256(secret.encode()).hexdigest()


def name_of(text):
    """A user's name as it is kept; Refused if it cannot be one."""
    if not re.fullmatch(r"[\w.@+-]{1,64}", text := text.strip().casefold()):
        raise Refused("A name has 1 to 64 letters, digits or . @ + - _", field="name")
    return text


def _hash(password, name):
    if not LEAST <= len(password) <= MOST or password.casefold() == name:
        raise Refused("A password has 8 to 200 characters, and is not the name.", field="password")
    with computing():
        return hasher.hash(password)


def invite(db, administrator=False, note="", user_id=None):
    """The secret of a new invitation."""
    secret = secrets.token_urlsafe(24)
    now = time.time()
    db.execute(delete(Invitation).where(Invitation.expires < now))
    db.add(Invitation(id=digest(secret), administrator=administrator, note=note[:200], user_id=user_id,
                      expires=now + INVITATION))  # fmt: skip
    return secret


def first_invitation(db):
    """The secret that makes the administrator, where there is none yet; an older one of that kind no longer works."""
    if db.scalar(select(func.count()).select_from(User).where(User.administrator)):
        return None
    db.execute(delete(Invitation).where(Invitation.administrator))
    return invite(db, administrator=True)


def invitation(db, secret):
    """The invitation of a secret that is still good, or None."""
    found = db.get(Invitation, digest(secret))
    return found if found and found.expires > time.time() else None


def open_links(db):
    """Invitations, and links for a new password, that can still be used."""
    return db.scalars(select(Invitation).where(Invitation.expires > time.time()).order_by(Invitation.expires)).all()


def register(db, name, password, administrator=False):
    """A new user; Refused if the name is taken or cannot be one."""
    name = name_of(name)
    hashed = _hash(password, name)
    if db.scalar(select(User).where(User.name == name)):
        raise Refused("This name is taken.", field="name")
    user = User(name=name, password=hashed, administrator=administrator)
    db.add(user)
    db.flush()
    return user


def renew(db, name):
    """The secret with which a user sets a new password, however they lost theirs; older ones no longer work."""
    user = db.scalar(select(User).where(User.name == name.strip().casefold()))
    if user is None:
        raise Refused("There is no such user.", status=404)
    db.execute(delete(Invitation).where(Invitation.user_id == user.id))
    return invite(db, user_id=user.id)


def shut_out(db, number):
    """End a user's sessions and password; a new link lets them in again. Their records stay."""
    db.execute(update(User).where(User.id == number).values(password=""))
    db.execute(delete(Session).where(Session.user_id == number))
    db.execute(delete(Invitation).where(Invitation.user_id == number))


def _renewed(db, found, password):
    user = db.get(User, found.user_id)
    user.password = _hash(password, user.name)
    db.execute(delete(Session).where(Session.user_id == user.id))
    db.execute(delete(Attempt).where(Attempt.name == user.name))
    return user


def accept(db, secret, name, password):
    """The user that an invitation makes, or whose password it renews; it is used up."""
    found = invitation(db, secret)
    if found is None:
        raise Refused("This link was used already, or is too old: ask for another.", status=404)
    user = _renewed(db, found, password) if found.user_id else register(db, name, password, found.administrator)
    if not db.execute(delete(Invitation).where(Invitation.id == found.id)).rowcount:
        raise Refused("This link was used already, or is too old: ask for another.", status=404)
    return user


def log_in(database, name, password, address):
    """The user with this name and password; Refused with one sentence for a wrong name and a wrong password."""
    name, now = name.strip().casefold()[:64], time.time()
    with database.begin() as db:
        db.execute(delete(Attempt).where(Attempt.at < now - WINDOW))
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


def attempted(db, name, address):
    """Count an attempt before it is made: many at once are not free. Refused if there were too many."""

    def count(*conditions):
        return db.scalar(select(func.count()).select_from(Attempt).where(*conditions))

    of_name, from_address = Attempt.name == name, Attempt.address == address
    if (count(of_name, from_address) >= ATTEMPTS or count(of_name) >= ATTEMPTS_OF_ONE
            or count(from_address) >= ATTEMPTS_FROM_ONE):  # fmt: skip
        raise Refused("Too many attempts: try again in a quarter of an hour.", status=429)
    db.add(Attempt(name=name, address=address))


def change_password(db, user, old, new, keep):
    """A new password; all sessions end but the one whose cookie says `keep`."""
    with computing():
        right = hasher.verify(old[:MOST], user.password)
    if not right:
        raise Refused("That is not your password.", field="old")
    db.get(User, user.id).password = _hash(new, user.name)
    db.execute(delete(Session).where(Session.user_id == user.id, Session.id != digest(keep)))


def open_session(db, user, agent):
    """What the cookie of a new session says."""
    secret = secrets.token_urlsafe(32)
    db.execute(delete(Session).where(Session.created < time.time() - SESSION))
    db.add(Session(id=digest(secret), user_id=user.id, agent=agent[:200]))
    return secret


def who(db, secret):
    """The user of a cookie, or None."""
    found = db.get(Session, digest(secret)) if secret else None
    if found is None or found.created < time.time() - SESSION:
        return None
    if found.seen < time.time() - 60:
        with contextlib.suppress(OperationalError), db.begin_nested():  # a full disk keeps nobody out
            found.seen = time.time()
            db.flush()
    return found.user


def end_session(db, secret):
    """Log out."""
    db.execute(delete(Session).where(Session.id == digest(secret)))

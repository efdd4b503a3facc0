"""Log in and out, register, accept an invitation, change the password; users, for the administrator."""

import csv
import io
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import delete, select

from . import accounts, disk
from .database import Attempt, Invitation, Record, Session, User, changed
from .fields import Field
from .refusals import NotHere, Refused
from .web import COOKIE, LANGUAGE, answers, current, gone_to, local, logged_in, page, sent
from .words import LANGUAGES

router = APIRouter()
YEAR = 365 * 86400  # seconds
USES = Field("uses", "How many accounts it makes", "", kind="whole", default="1", least=1, most=1000)
QUOTA = Field("quota", "MiB on the disk", "", kind="whole", least=0, most=10**7)


def _enter(request, user, address="/"):
    """Open a session for a user and go on."""
    with request.app.state.database.begin() as db:
        secret = accounts.open_session(db, user, request.headers.get("user-agent", ""))
    answer = gone_to(request, address, {"name": user.name}, 200)
    answer.set_cookie(COOKIE, secret, max_age=int(accounts.SESSION), httponly=True, samesite="lax",
                      secure=request.url.scheme == "https")  # fmt: skip
    return answer


def _address(request):
    return request.client.host if request.client else ""


def _text(answers, name):
    return str(answers.get(name) or "")


@router.get("/health")
def health(request: Request) -> Response:
    """For whoever watches over the server: the status 200 while the database answers, 503 while it does not."""
    with request.app.state.database.begin() as db:
        db.execute(select(1))
    return JSONResponse({"healthy": True})


@router.get("/login")
def login_page(request: Request, back: str = "/", user: User | None = Depends(current)) -> Response:
    """The form to log in."""
    if user:
        return gone_to(request, local(back), status=200)
    return page(request, "login.html", {"back": local(back), "refused": None, "name": ""})


@router.post("/login")
def login(request: Request, answers: dict = Depends(answers)) -> Response:
    """Log in; a wrong name and a wrong password get the same answer."""
    name = _text(answers, "name")
    back = local(_text(answers, "back") or "/")
    try:
        user = accounts.log_in(request.app.state.database, name, _text(answers, "password"), _address(request))
    except Refused as refused:
        return page(request, "login.html", {"back": back, "refused": refused.data, "name": name}, refused.status)
    return _enter(request, user, back)


@router.post("/language/{name}")
def choose_language(request: Request, name: str) -> Response:
    """Show this browser all pages in a language."""
    if name not in LANGUAGES:
        raise NotHere
    before = urlsplit(request.headers.get("referer", "/")).path.removeprefix(request.app.state.options.path)
    answer = gone_to(request, local(before or "/"), status=200)
    answer.set_cookie(LANGUAGE, name, max_age=YEAR, samesite="lax", httponly=True)
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    """End this session."""
    with request.app.state.database.begin() as db:
        accounts.end_session(db, request.cookies.get(COOKIE, ""))
    answer = gone_to(request, "/login", status=200)
    answer.delete_cookie(COOKIE)
    return answer


def _joining(request: Request, template: str, data: dict, make: Callable[..., User], answers: dict) -> Response:
    """Make an account from a form's name and password, and log in."""
    try:
        if _text(answers, "password") != _text(answers, "again"):
            raise Refused("The two passwords are not the same.", field="again")
        with request.app.state.database.begin() as db:
            user = make(db, _text(answers, "name"), _text(answers, "password"))
    except Refused as refused:
        again = data | {"refused": refused.data, "name": _text(answers, "name")}
        return page(request, template, again, refused.status)
    return _enter(request, user)


def _open(request):
    if not request.app.state.options.registration:
        raise NotHere


@router.get("/register")
def register_page(request: Request) -> Response:
    """The form to make an account, where registration is open."""
    _open(request)
    return page(
        request, "join.html", {"action": "/register", "administrator": False, "whose": "", "refused": None, "name": ""}
    )


@router.post("/register")
def register(request: Request, answers: dict = Depends(answers)) -> Response:
    """Make an account, where registration is open."""
    _open(request)

    def make(db, name, password):
        with request.app.state.database.begin() as counting:
            accounts.attempted(counting, "", _address(request), accounts.JOINING)
        return accounts.register(db, name, password)

    return _joining(request, "join.html", {"action": "/register", "administrator": False, "whose": ""}, make, answers)


@router.get("/invitations/{secret}")
def invitation_page(request: Request, secret: str) -> Response:
    """The form of an invitation."""
    return page(request, "join.html", _invited(request, secret) | {"refused": None, "name": ""})


def _invited(request, secret):
    with request.app.state.database.begin() as db:
        found = accounts.invitation(db, secret)
        if found is None:
            raise Refused("This link has already been used or has expired: ask for a new one.", status=404)
        whose = db.get(User, found.user_id).name if found.user_id else ""
        return {"action": request.url.path, "administrator": found.administrator, "whose": whose}


@router.post("/invitations/{secret}")
def accept(request: Request, secret: str, answers: dict = Depends(answers)) -> Response:
    """Make the account of an invitation, which works once."""
    data = _invited(request, secret)
    return _joining(request, "join.html", data, lambda db, *who: accounts.accept(db, secret, *who), answers)


def _account(request, user, refused=None, done="", status=200):
    with request.app.state.database.begin() as db:
        found = db.scalars(select(Session).where(Session.user_id == user.id).order_by(Session.seen.desc())).all()
    own = accounts.digest(request.cookies.get(COOKIE, ""))
    sessions = [
        {"id": s.id, "agent": s.agent, "created": s.created, "seen": s.seen, "this": s.id == own} for s in found
    ]
    return page(request, "account.html", {"sessions": sessions, "refused": refused, "done": done}, status)


@router.get("/account")
def account(request: Request, user: User = Depends(logged_in)) -> Response:
    """One's own account: password and sessions."""
    return _account(request, user)


@router.post("/account/password")
def change_password(request: Request, user: User = Depends(logged_in), answers: dict = Depends(sent)) -> Response:
    """A new password; all other sessions end."""
    try:
        if _text(answers, "password") != _text(answers, "again"):
            raise Refused("The two passwords are not the same.", field="again")
        with request.app.state.database.begin() as counting:
            accounts.attempted(counting, user.name, _address(request))
        with request.app.state.database.begin() as db:
            keep = request.cookies[COOKIE]
            accounts.change_password(db, user, _text(answers, "old"), _text(answers, "password"), keep)
            db.execute(delete(Attempt).where(Attempt.name == user.name, Attempt.address == _address(request)))
    except Refused as refused:
        return _account(request, user, refused.data, status=refused.status)
    return _account(request, user, done="The password is changed; all other sessions have ended.")


@router.post("/account/sessions/end")
def end_others(request: Request, user: User = Depends(logged_in)) -> Response:
    """End all sessions but this one."""
    own = accounts.digest(request.cookies[COOKIE])
    with request.app.state.database.begin() as db:
        db.execute(delete(Session).where(Session.user_id == user.id, Session.id != own))
    return _account(request, user, done="All other sessions have ended.")


@router.post("/account/sessions/{digest}/end")
def end_one(request: Request, digest: str, user: User = Depends(logged_in)) -> Response:
    """End one of one's own sessions."""
    with request.app.state.database.begin() as db:
        if not changed(db, delete(Session).where(Session.user_id == user.id, Session.id == digest)):
            raise NotHere
    return _account(request, user, done="That session has ended.")


def _administrator(user):
    if not user.administrator:
        raise NotHere


def _users(request, link="", uses=1):
    options = request.app.state.options
    with request.app.state.database.begin() as db:
        users = [_user(db, options, user) for user in db.scalars(select(User).order_by(User.id))]
        names = {user["id"]: user["name"] for user in users}
        links = [{"id": i.id, "whose": names.get(i.user_id, ""), "expires": i.expires, "uses": i.uses}
                 for i in accounts.open_links(db)]  # fmt: skip
    return page(request, "users.html", {"users": users, "links": links, "link": link, "uses": uses})


def _user(db, options, user):
    """A user as the administrator sees him, with what he has here."""
    numbers = db.scalars(select(Record.id).where(Record.user_id == user.id)).all()
    return {
        "id": user.id, "name": user.name, "administrator": user.administrator, "created": user.created,
        "open": bool(user.password), "leaving": user.leaving, "records": len(numbers),
        "used": sum(disk.size(options.record(number)) for number in numbers) // disk.MIB,
        "quota": options.quota if user.quota is None else user.quota,
    }  # fmt: skip


@router.get("/users")
def users(request: Request, user: User = Depends(logged_in)) -> Response:
    """All users, for the administrator."""
    _administrator(user)
    return _users(request)


@router.get("/users.csv")
def users_table(request: Request, user: User = Depends(logged_in)) -> Response:
    """The same as a table for a spreadsheet."""
    _administrator(user)
    options, text = request.app.state.options, io.StringIO()
    with request.app.state.database.begin() as db:
        rows = [_user(db, options, found) for found in db.scalars(select(User).order_by(User.id))]
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(row | {"name": _plain(row["name"])} for row in rows)
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8",
                    headers={"Content-Disposition": "attachment; filename=users.csv"})  # fmt: skip


def _plain(name):
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in "+-@=" else name


@router.post("/users/invite")
def invite(request: Request, user: User = Depends(logged_in), answers: dict = Depends(sent)) -> Response:
    """A link that makes one account, or as many as a class has users; shown once."""
    _administrator(user)
    uses = int(USES.read(_text(answers, "uses") or "1"))
    with request.app.state.database.begin() as db:
        secret = accounts.invite(db, note=f"by {user.name}, {time.strftime('%Y-%m-%d')}", uses=uses)
    return _users(request, link=_link(request, secret), uses=uses)


@router.post("/users/links/{digest}/withdraw")
def withdraw(request: Request, digest: str, user: User = Depends(logged_in)) -> Response:
    """A link that was given out no longer works."""
    _administrator(user)
    with request.app.state.database.begin() as db:
        if not changed(db, delete(Invitation).where(Invitation.id == digest)):
            raise NotHere
    return gone_to(request, "/users", status=200)


def _link(request, secret):
    path = request.app.state.options.path
    return f"{request.url.scheme}://{request.url.netloc}{path}/invitations/{quote(secret)}"


@router.post("/users/{number}/renew")
def renew(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """A link with which a user sets a new password, shown once."""
    with request.app.state.database.begin() as db:
        secret = accounts.renew(db, _somebody(db, user, number).name)
    return _users(request, link=_link(request, secret))


def _another(db, user, number):
    """A user who is not oneself, for the administrator."""
    _administrator(user)
    if number == user.id:
        raise Refused("You cannot do this with your own account.", status=409)
    return _somebody(db, user, number)


def _somebody(db, user, number):
    _administrator(user)
    found = db.get(User, number) if number < 2**31 else None
    if found is None:
        raise NotHere
    return found


@router.post("/users/{number}/shut-out")
def disable(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Nobody can log in as this user until a new link is issued."""
    with request.app.state.database.begin() as db:
        accounts.disable(db, _another(db, user, number).id)
    return gone_to(request, "/users", status=200)


@router.post("/users/{number}/delete")
def delete_user(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Delete a user with all records."""
    with request.app.state.database.begin() as db:
        accounts.leave(db, _another(db, user, number).id)
    return gone_to(request, "/users", status=202)


@router.post("/users/{number}/administrator")
def appoint(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Make a user an administrator, too, or an administrator an ordinary user."""
    with request.app.state.database.begin() as db:
        found = _another(db, user, number)
        found.administrator = not found.administrator
    return gone_to(request, "/users", status=200)


@router.post("/users/{number}/quota")
def set_quota(
    request: Request, number: int, user: User = Depends(logged_in), answers: dict = Depends(sent)
) -> Response:
    """The MiB that a user's records may take."""
    with request.app.state.database.begin() as db:
        _somebody(db, user, number).quota = int(QUOTA.read(_text(answers, "quota")))
    return gone_to(request, "/users", status=200)


@router.post("/users/{number}/log-out")
def log_out(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """End all sessions of a user."""
    with request.app.state.database.begin() as db:
        db.execute(delete(Session).where(Session.user_id == _somebody(db, user, number).id))
    return gone_to(request, "/users", status=200)

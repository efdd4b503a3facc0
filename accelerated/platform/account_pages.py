"""Log in and out, register, accept an invitation, change the password; users, for the administrator."""

import time
from collections.abc import Callable
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import delete, select

from . import accounts
from .database import Attempt, Invitation, Session, User, changed
from .fields import Field
from .refusals import NotHere, Refused
from .web import COOKIE, answers, current, gone_to, local, logged_in, page, sent

router = APIRouter()
USES = Field("uses", "How many accounts it makes", "", kind="whole", default="1", least=1, most=1000)


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
    with request.app.state.database.begin() as db:
        users = [{"id": u.id, "name": u.name, "administrator": u.administrator, "created": u.created,
                  "open": bool(u.password)}
                 for u in db.scalars(select(User).order_by(User.id))]  # fmt: skip
        names = {user["id"]: user["name"] for user in users}
        links = [
            {"id": i.id, "whose": names.get(i.user_id, ""), "expires": i.expires, "uses": i.uses}
            for i in accounts.open_links(db)
        ]
    return page(request, "users.html", {"users": users, "links": links, "link": link, "uses": uses})


@router.get("/users")
def users(request: Request, user: User = Depends(logged_in)) -> Response:
    """All users, for the administrator."""
    _administrator(user)
    return _users(request)


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
    return f"{request.url.scheme}://{request.url.netloc}/invitations/{quote(secret)}"


@router.post("/users/{number}/renew")
def renew(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """A link with which a user sets a new password, shown once."""
    _administrator(user)
    with request.app.state.database.begin() as db:
        found = db.get(User, number) if number < 2**31 else None
        if found is None:
            raise NotHere
        secret = accounts.renew(db, found.name)
    return _users(request, link=_link(request, secret))


@router.post("/users/{number}/shut-out")
def disable(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Nobody can log in as this user until a new link is issued."""
    _administrator(user)
    if number == user.id:
        raise Refused("You cannot disable your own account.", status=409)
    with request.app.state.database.begin() as db:
        if number >= 2**31 or db.get(User, number) is None:
            raise NotHere
        accounts.disable(db, number)
    return gone_to(request, "/users", status=200)


@router.post("/users/{number}/log-out")
def log_out(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """End all sessions of a user."""
    _administrator(user)
    with request.app.state.database.begin() as db:
        if number >= 2**31 or db.get(User, number) is None:
            raise NotHere
        db.execute(delete(Session).where(Session.user_id == number))
    return gone_to(request, "/users", status=200)

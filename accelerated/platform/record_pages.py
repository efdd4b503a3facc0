"""Home, the three forms, records, their logs and files, comparison."""

import contextlib
import shutil
import time
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import UploadFile

from ..checks import InputError
from ..runs.folders import save_checkpoint
from . import asking, fields, following, networks, records, shown, taking, turns
from .commands import CHECKPOINT, UPLOAD
from .database import Record, User
from .records import KINDS
from .refusals import NotHere, Refused
from .security import APART
from .web import answers as answers_of
from .web import gone_to, language_for, logged_in, numbered, page, sent, wants_json
from .words import translator

router = APIRouter()
MANY, LONGEST_TAGS = 50, 200


def _database(request):
    return request.app.state.database


def _options(request):
    return request.app.state.options


def _words(request):
    return translator(language_for(request))


@router.get("/")
def home(request: Request, user: User = Depends(logged_in)) -> Response:
    """The three steps, an example to start, and the latest records."""
    with _database(request).begin() as db:
        latest = [shown.row(record) for record in db.scalars(records.visible(user).limit(6))]
    return page(request, "home.html", {"latest": latest})


@router.post("/example")
def example(request: Request, user: User = Depends(logged_in)) -> Response:
    """All three steps on digits, one after another."""
    options = _options(request)
    made: list = []
    with _database(request).begin() as db:
        for kind, answers in asking.EXAMPLE.items():
            source = made[-1] if made else None
            settings = _settings(kind, answers, options, source)
            made.append(records.create(db, user, options, kind, answers["name"], settings, source))
    return gone_to(request, f"/record/{made[-1].id}", {"id": made[-1].id})


def _settings(kind, answers, options, source):
    if kind == "ann":
        return asking.ann(answers, options)
    return {"qann": asking.qann, "test": asking.test}[kind](answers, options, source)


def _sources(db, options, user, kind, requested):
    """Records that a new one may start from: the latest, and the requested one."""
    kinds = {"qann": ("ann",), "test": ("qann", "ann")}.get(kind, ())
    query = records.visible(user).where(Record.kind.in_(kinds))
    found = [*db.scalars(query.limit(200)), *db.scalars(query.where(Record.id == (numbered(requested) or 0)))]
    usable = [r for r in dict.fromkeys(found) if r.state not in records.BROKEN or records.checkpoint(options, r)]
    return [shown.row(record) for record in usable]


def _form(request, user, kind, answers, refused=None, form=None):
    """A page with the fields of a step, filled with the answers; programs get only the refusal, if there is one."""
    options = _options(request)
    if refused and wants_json(request):
        return page(request, "form.html", {"refused": refused.data}, refused.status)
    with _database(request).begin() as db:
        sources = _sources(db, options, user, kind, str(answers.get("source") or ""))
    if not refused:
        answers = _initial(kind, sources, answers)
    commands = {name: networks.missing(name, options.data) for name in networks.DATA}
    missing = {name: command if user.administrator else "" for name, command in commands.items() if command}
    described = [{"name": f.name, "label": f.label, "help": f.help, "cost": f.cost, "kind": f.kind, "more": f.more,
                  "groups": f.groups, "extra": dict(f.extra), "least": f.least, "most": f.most, "default": f.default}
                 for f in form or fields.FORMS[kind]]  # fmt: skip
    data = {"kind": kind, "title": KINDS[kind], "fields": described, "sources": sources, "answers": answers,
            "missing": missing, "refused": refused.data if refused else None,
            "uploading": form is fields.UPLOAD}  # fmt: skip
    return page(request, "form.html", data, refused.status if refused else 200)


def _initial(kind, sources, answers):
    """The answers with a source, by default the latest that fits, and with its name."""
    requested = [source for source in sources if str(source["id"]) == answers.get("source")]
    fitting = [source for source in sources if source["kind"] == {"qann": "ann", "test": "qann"}.get(kind)]
    chosen = [*requested, *fitting][:1]
    if not chosen or answers.get("source") == "scratch":
        return answers
    return {"name": chosen[0]["name"]} | answers | {"source": str(chosen[0]["id"])}


@router.get("/{kind}/new")
def new(request: Request, kind: str, source: str = "", again: str = "", user: User = Depends(logged_in)) -> Response:
    """The fields of a step; with `again`, filled with the settings of that record."""
    if kind not in KINDS:
        raise NotHere
    if not again:
        return _form(request, user, kind, {"source": source})
    with _database(request).begin() as db:
        record = records.one(db, user, numbered(again))
    if record.kind != kind or record.settings.get("start") == "upload":
        raise NotHere
    return _form(request, user, kind, asking.again(record))


@router.get("/ann/upload")
def upload_page(request: Request, user: User = Depends(logged_in)) -> Response:
    """The form to upload a network."""
    return _form(request, user, "ann", {}, form=fields.UPLOAD)


@router.get("/ann/upload/expected")
def expected(request: Request, user: User = Depends(logged_in)) -> Response:
    """The names and shapes that a file must have, and how images are normalised, before anything is uploaded."""
    answers = {key: request.query_params[key] for key in networks.SHARED if key in request.query_params}
    try:
        settings = asking.shared(answers, _options(request))
        found = networks.expected(settings)
    except Refused as refused:
        return _form(request, user, "ann", answers, refused, fields.UPLOAD)
    named = {"network": networks.MODELS[settings["model"]], "data": networks.DATA[settings["data"]].label}
    residual = settings["model"].startswith("resnet")
    return page(request, "expected.html", {"expected": found, "residual": residual} | named)


def _fits(request: Request, user: User = Depends(logged_in)) -> User:
    """The user, if there is room for what is about to be sent; nothing of it is read or written before."""
    length = request.headers.get("content-length", "")
    with _database(request).begin() as db:
        records.room(db, _options(request), user, int(length) if length.isdigit() else 0)
    return user


async def _uploading(request: Request, user: User = Depends(_fits)) -> dict:
    return await answers_of(request)


@router.post("/ann/upload")
def upload(request: Request, user: User = Depends(logged_in), answers: dict = Depends(_uploading)) -> Response:
    """Upload the weights of a network, instead of training it here."""
    file = answers.pop("file", None)
    try:
        if not isinstance(file, UploadFile) or not file.filename:
            raise Refused("Choose a file.", field="file")
        record = _uploaded(request, user, answers, file)
    except Refused as refused:
        return _form(request, user, "ann", answers, refused, fields.UPLOAD)
    return gone_to(request, f"/record/{record.id}", {"id": record.id})


def _uploaded(request, user, answers, file):
    """The record of an uploaded file, once the file is checked."""
    options = _options(request)
    part = options.home / f"upload-{user.id}-{id(file)}.part"
    try:
        with part.open("wb") as target:
            shutil.copyfileobj(file.file, target, 2**20)
        name = fields.NAME.read(answers.get("name") or "upload")
        settings = asking.upload(answers | {"name": name}, options, part)
        return _kept(request, user, ("ann", name, settings), part, UPLOAD)
    finally:
        part.unlink(missing_ok=True)


def _kept(request, user, what, part, own, source=None):
    """A record with a file of weights of its own, or neither."""
    options, (kind, name, settings) = _options(request), what
    record = None
    try:
        with _database(request).begin() as db:
            record = records.create(db, user, options, kind, name, settings, source, more=part.stat().st_size)
            options.record(record.id).mkdir(parents=True)
            part.replace(options.record(record.id) / own)  # before the worker can see the record
        return record
    except BaseException:
        if record is not None:
            shutil.rmtree(options.record(record.id), ignore_errors=True)
        raise


@router.post("/{kind}/new")
def create(request: Request, kind: str, user: User = Depends(logged_in), answers: dict = Depends(sent)) -> Response:
    """Start a step with the answers of its form."""
    if kind not in KINDS:
        raise NotHere
    try:
        with _database(request).begin() as db:
            requested = answers.get("source") or ""
            source = records.one(db, user, numbered(requested)) if requested not in ("", "scratch") else None
            name = fields.NAME.read(answers.get("name") or (source.name if source else kind))
            settings = _settings(kind, answers | {"name": name}, _options(request), source)
            if settings.get("start") != "checkpoint":
                record = records.create(db, user, _options(request), kind, name, settings, source)
        if settings.get("start") == "checkpoint":
            record = _from_checkpoint(request, user, (kind, name, settings), source)
    except NotHere:
        refused = Refused("There is no such record.", field="source")
        return _form(request, user, kind, answers, refused)
    except Refused as refused:
        return _form(request, user, kind, answers, refused)
    return gone_to(request, f"/record/{record.id}", {"id": record.id})


@contextlib.contextmanager
def _checkpoint(options, record):
    """A file with what a record had learnt when it ended, for as long as it is needed."""
    part = options.home / f"checkpoint-{record.id}-{time.time_ns()}.part"
    try:
        save_checkpoint(options.record(record.id) / "run", part)
        yield part
    except InputError as error:
        raise Refused("What this record had learnt cannot be read.", detail=str(error)) from None
    finally:
        part.unlink(missing_ok=True)


def _from_checkpoint(request, user, what, source):
    """A record that starts with what another had learnt when it ended, which it gets a copy of."""
    with _checkpoint(_options(request), source) as part:
        return _kept(request, user, what, part, CHECKPOINT, source)


@router.get("/records/{kind}")
def listed(request: Request, kind: str, q: str = "", state: str = "", sort: str = "", skip: str = "",
           user: User = Depends(logged_in)) -> Response:  # fmt: skip
    """Records of a kind, newest first, fifty at a time; `q`: in which these words occur."""
    if kind not in KINDS:
        raise NotHere
    skipped = numbered(skip) or 0
    with _database(request).begin() as db:
        some = db.scalars(records.found(user, kind, q[:200], state, sort).offset(skipped).limit(MANY + 1)).all()
        rows = [shown.row(r) | {"settings": r.settings} for r in some[:MANY]]
    more = skipped + MANY if len(some) > MANY else None
    asked = {"q": q[:200], "state": state, "sort": sort}
    return page(request, "records.html", {"kind": kind, "title": KINDS[kind], "records": rows, "more": more,
                                          "asked": asked, "_states": records.STATES,
                                          "_query": urlencode(asked)})  # fmt: skip


@router.post("/record/{number}/tags")
def tag(request: Request, number: int, user: User = Depends(logged_in), answers: dict = Depends(sent)) -> Response:
    """Give a record tags, words by which lists find it."""
    words = " ".join(dict.fromkeys(str(answers.get("tags") or "").split()))
    if len(words) > LONGEST_TAGS:
        raise Refused("Tags may have {most} letters together.", field="tags", most=LONGEST_TAGS)
    with _database(request).begin() as db:
        records.one(db, user, number).tags = words
    return gone_to(request, f"/record/{number}", status=200)


def _one(request, user, number):
    options = _options(request)
    with _database(request).begin() as db:
        record = records.one(db, user, number)
        return shown.record(record, options) | {"turn": turns.place(db, options, record)}


@router.get("/record/{number}")
def one(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """A record's settings, log, results and files, and the commands that do the same."""
    data = _one(request, user, number)
    spiking = data["results"] and data["results"]["rows"]
    drawn: list = []
    if spiking and not wants_json(request):
        drawn = shown.drawings(data["results"]["series"], data["results"]["accuracy"].get("folded"), _words(request))
    return page(request, "record.html", {"record": data, "_drawn": drawn, "_schedules": fields.WAYS,
                                         "_taking": taking.KINDS, "_load": taking.LOAD})  # fmt: skip


@router.get("/record/{number}/news")
def news(
    request: Request, number: int, after: str = "0", epochs: str = "0", user: User = Depends(logged_in)
) -> Response:
    """What is new since byte `after` of the log and the first `epochs` epochs; pages ask for it again and again."""
    options = _options(request)
    with _database(request).begin() as db:
        record = records.one(db, user, number)
        row, turn = shown.row(record), turns.place(db, options, record)
    found = following.news(row, record.settings, options.record(number), _offset(after), _offset(epochs))
    return JSONResponse(found | {"turn": turn})


def _offset(text):
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


@router.get("/record/{number}/files/{name}")
def download(request: Request, number: int, name: str, user: User = Depends(logged_in)) -> Response:
    """One of a record's files, by the names that its page lists."""
    with _database(request).begin() as db:
        record = records.one(db, user, number)
    if name == "checkpoint.safetensors" and records.checkpoint(_options(request), record):
        with _checkpoint(_options(request), record) as part:
            attached = {"Content-Disposition": f'attachment; filename="record-{number}-{name}"'}
            return Response(part.read_bytes(), media_type="application/octet-stream", headers=attached)
    path = _options(request).record(number) / shown.FILES.get(name, "?")
    if name not in shown.FILES or not path.is_file():
        raise NotHere
    inline = name.endswith(".png")
    return FileResponse(path, filename=f"record-{number}-{name}",
                        content_disposition_type="inline" if inline else "attachment")  # fmt: skip


@router.get("/record/{number}/take/{kind}")
def take(request: Request, number: int, kind: str, user: User = Depends(logged_in)) -> Response:
    """The spiking network of a finished test in a form for elsewhere, as a zip file."""
    with _database(request).begin() as db:
        record = records.one(db, user, number)
        if kind not in taking.KINDS or not shown.row(record)["snn"] or record.state != "finished":
            raise NotHere
    name = f"record-{number}-{kind}"
    options = _options(request)
    return FileResponse(taking.archive(options.home, options.record(number), kind, name), filename=f"{name}.zip")


@router.get("/record/{number}/watch")
def watch(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """The page on which a network in whole numbers is watched: with its own scripts, apart from the site."""
    with _database(request).begin() as db:
        records.one(db, user, number)
    path = _options(request).record(number) / shown.FILES["network.html"]
    if not path.is_file():
        raise NotHere
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": APART})


@router.post("/record/{number}/stop")
def stop(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Request that a record is stopped."""
    with _database(request).begin() as db:
        records.stop(db, records.one(db, user, number))
    return gone_to(request, f"/record/{number}", status=202)


@router.post("/record/{number}/resume")
def resume(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Let a record that ended before it finished go on from its last whole epoch."""
    with _database(request).begin() as db:
        records.resume(db, _options(request), records.one(db, user, number))
    return gone_to(request, f"/record/{number}", status=202)


@router.post("/record/{number}/first")
def first(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Put a record that waits before all others, for the administrator."""
    if not user.administrator:
        raise NotHere
    with _database(request).begin() as db:
        records.put_first(db, records.one(db, user, number))
    return gone_to(request, f"/record/{number}", status=202)


@router.post("/record/{number}/delete")
def delete(request: Request, number: int, user: User = Depends(logged_in)) -> Response:
    """Request that a record is stopped and deleted with its files."""
    with _database(request).begin() as db:
        record = records.one(db, user, number)
        records.remove(db, record)
    return gone_to(request, f"/records/{record.kind}", status=202)


@router.get("/compare")
def compare(request: Request, user: User = Depends(logged_in)) -> Response:
    """Results side by side; all finished tests to choose from."""
    chosen = [n for text in request.query_params.getlist("id")[:8] if (n := numbered(text)) is not None]
    series: dict = {}
    found: list = []
    with _database(request).begin() as db:
        finished = records.visible(user, "test").where(Record.state == "finished").limit(100)
        tests = [shown.row(record) for record in db.scalars(finished)]
        for number in dict.fromkeys(chosen):
            record = records.one(db, user, number)
            results = shown.results(_options(request).record(number))
            if results is not None:
                found.append(shown.row(record) | {"results": results})
                series |= {f"{record.id} {record.name}, {way}": line for way, line in results["series"].items()}
    steps = sorted({point[0] for line in series.values() for point in line})
    table = [{"way": way, "shares": [{p[0]: p[3] for p in line}.get(t) for t in steps]} for way, line in series.items()]
    zoomed = bool(request.query_params.get("zoom"))
    drawn = shown.drawings(series, None, _words(request), zoomed) if not wants_json(request) else []
    return page(request, "compare.html", {"tests": tests, "chosen": chosen, "records": found, "steps": steps,
                                          "table": table, "_drawn": drawn, "_zoomed": zoomed,
                                          "_query": urlencode([("id", number) for number in chosen])})  # fmt: skip

"""Home, the three forms, records, their logs and files, comparison."""

import shutil

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.datastructures import UploadFile

from . import accounts, asking, fields, following, networks, records, shown
from .commands import UPLOAD
from .database import Record
from .records import KINDS
from .refusals import NotHere, Refused
from .web import COOKIE, gone_to, logged_in, numbered, page, sent, wants_json
from .words import language_of, translator

router = APIRouter()


def _database(request):
    return request.app.state.database


def _options(request):
    return request.app.state.options


@router.get("/")
def home(request: Request, user=Depends(logged_in)):
    """What the three steps are, and an example to start."""
    with _database(request).begin() as db:
        latest = [shown.row(record) for record in db.scalars(records.visible(user).limit(6))]
    return page(request, "home.html", {"latest": latest})


@router.post("/example")
def example(request: Request, user=Depends(logged_in)):
    """All three steps on digits, one after another."""
    options, made = _options(request), []
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


def _sources(db, user, kind, asked):
    """Records that a new one may begin with: the latest, and the one that is asked for."""
    wanted = {"qann": ("ann",), "test": ("qann", "ann")}.get(kind, ())
    query = records.visible(user).where(Record.kind.in_(wanted), Record.wish == "")
    found = [*db.scalars(query.limit(200)), *db.scalars(query.where(Record.id == (numbered(asked) or 0)))]
    found = list(dict.fromkeys(found))
    return [shown.row(record) for record in found if record.state not in asking.BROKEN]


def _form(request, user, kind, answers, refused=None, asked=None):
    """A page with the fields of a step, filled with what was answered; of a refusal, a program gets that alone."""
    options = _options(request)
    if refused and wants_json(request):
        return page(request, "form.html", {"refused": refused.told}, refused.status)
    with _database(request).begin() as db:
        sources = _sources(db, user, kind, str(answers.get("source") or ""))
    if not refused:
        answers = _beginning(kind, sources, answers)
    lacking = {name: networks.missing(name, options.data) for name in networks.DATA}
    hints = {name: how if user.administrator else "" for name, how in lacking.items() if how}
    told = refused.told if refused else None
    described = [{"name": f.name, "label": f.label, "help": f.help, "cost": f.cost, "kind": f.kind, "more": f.more,
                  "groups": f.groups, "extra": dict(f.extra), "least": f.least, "most": f.most, "default": f.default}
                 for f in asked or fields.ASKED[kind]]  # fmt: skip
    data = {"kind": kind, "title": KINDS[kind], "fields": described, "sources": sources, "answers": answers,
            "missing": hints, "refused": told,
            "uploading": asked is fields.UPLOAD}  # fmt: skip
    return page(request, "form.html", data, refused.status if refused else 200)


def _beginning(kind, sources, answers):
    """What a form begins with: its source, the latest that fits if none was asked for, and a name."""
    wanted = [source for source in sources if str(source["id"]) == answers.get("source")]
    fitting = [source for source in sources if source["kind"] == {"qann": "ann", "test": "qann"}.get(kind)]
    chosen = [*wanted, *fitting][:1]
    if not chosen or answers.get("source") == "scratch":
        return answers
    return {"name": chosen[0]["name"]} | answers | {"source": str(chosen[0]["id"])}


@router.get("/{kind}/new")
def new(request: Request, kind: str, source: str = "", again: str = "", user=Depends(logged_in)):
    """The fields of a step; `again`: filled as those of that record were."""
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
def upload_page(request: Request, user=Depends(logged_in)):
    """The fields of a network that is uploaded."""
    return _form(request, user, "ann", {}, asked=fields.UPLOAD)


@router.post("/ann/upload")
def upload(request: Request, user=Depends(logged_in), answers=Depends(sent)):
    """A network whose weights are in a file, instead of one that is trained here."""
    options, file = _options(request), answers.pop("file", None)
    try:
        if not isinstance(file, UploadFile) or not file.filename:
            raise Refused("Choose a file.", field="file")
        part = options.home / f"upload-{user.id}-{id(file)}.part"
        try:
            with part.open("wb") as target:
                shutil.copyfileobj(file.file, target, 2**20)
            name = fields.NAME.read(answers.get("name") or "upload")
            settings = asking.upload(answers | {"name": name}, options, part)
            record = _kept(request, user, name, settings, part)
        finally:
            part.unlink(missing_ok=True)
    except Refused as refused:
        return _form(request, user, "ann", answers, refused, fields.UPLOAD)
    return gone_to(request, f"/record/{record.id}", {"id": record.id})


def _kept(request, user, name, settings, part):
    """A record with its uploaded file, or neither."""
    options, record = _options(request), None
    try:
        with _database(request).begin() as db:
            record = records.create(db, user, options, "ann", name, settings, more=part.stat().st_size)
            options.record(record.id).mkdir(parents=True)
            part.replace(options.record(record.id) / UPLOAD)  # before the worker can see the record
        return record
    except BaseException:
        if record is not None:
            shutil.rmtree(options.record(record.id), ignore_errors=True)
        raise


@router.post("/{kind}/new")
def create(request: Request, kind: str, user=Depends(logged_in), answers=Depends(sent)):
    """Start a step with the fields as they were answered."""
    if kind not in KINDS:
        raise NotHere
    try:
        with _database(request).begin() as db:
            asked = answers.get("source") or ""
            source = records.one(db, user, numbered(asked)) if asked not in ("", "scratch") else None
            name = fields.NAME.read(answers.get("name") or (source.name if source else kind))
            settings = _settings(kind, answers | {"name": name}, _options(request), source)
            record = records.create(db, user, _options(request), kind, name, settings, source)
    except NotHere:
        refused = Refused("There is no such record.", field="source")
        return _form(request, user, kind, answers, refused)
    except Refused as refused:
        return _form(request, user, kind, answers, refused)
    return gone_to(request, f"/record/{record.id}", {"id": record.id})


@router.get("/records/{kind}")
def listed(request: Request, kind: str, before: str = "", user=Depends(logged_in)):
    """Records of a kind, newest first, fifty at a time."""
    if kind not in KINDS:
        raise NotHere
    with _database(request).begin() as db:
        query = records.visible(user, kind)
        query = query.where(Record.id < numbered(before)) if numbered(before) else query
        found = db.scalars(query.limit(51)).all()
        rows = [shown.row(r) | {"settings": r.settings} for r in found[:50]]
    older = rows[-1]["id"] if len(found) > 50 else None
    return page(request, "records.html", {"kind": kind, "title": KINDS[kind], "records": rows, "older": older})


def _one(request, user, number):
    with _database(request).begin() as db:
        record = records.one(db, user, number)
        return record, _options(request).record(number), shown.record(record, _options(request).record(number))


@router.get("/record/{number}")
def one(request: Request, number: int, user=Depends(logged_in)):
    """All that is known of a record: settings, log, results, files, the commands that do the same."""
    _, _, data = _one(request, user, number)
    words = translator(language_of(request.headers.get("accept-language", "")))
    drawing = shown.figure(data["results"], words) if data["results"] and data["results"]["rows"] else ""
    return page(request, "record.html", {"record": data, "_drawing": drawing, "_schedules": fields.SCHEDULES})


@router.get("/record/{number}/events")
def events(request: Request, number: int, user=Depends(logged_in)):
    """Log, state and accuracy as they grow; goes on after the byte that Last-Event-ID (or ?after=) names."""
    _, folder, _ = _one(request, user, number)
    text = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    offset = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0

    def state_of():
        with _database(request).begin() as db:
            found = db.get(Record, number)
            return shown.row(found) if found and accounts.who(db, request.cookies.get(COOKIE, "")) else None

    async def gone():
        return request.app.state.closing or await request.is_disconnected()

    stream = following.follow(state_of, folder, offset, gone)
    stream = following.limited(request.app.state.readers, user.id, stream)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get("/record/{number}/files/{name}")
def download(request: Request, number: int, name: str, user=Depends(logged_in)):
    """One of a record's files, by the names that its page lists."""
    with _database(request).begin() as db:
        records.one(db, user, number)
    path = _options(request).record(number) / shown.FILES.get(name, "?")
    if name not in shown.FILES or not path.is_file():
        raise NotHere
    inline = name.endswith(".png")
    return FileResponse(path, filename=f"record-{number}-{name}",
                        content_disposition_type="inline" if inline else "attachment")  # fmt: skip


@router.post("/record/{number}/stop")
def stop(request: Request, number: int, user=Depends(logged_in)):
    """Ask for a record's end."""
    with _database(request).begin() as db:
        records.stop(db, records.one(db, user, number))
    return gone_to(request, f"/record/{number}", status=202)


@router.post("/record/{number}/delete")
def delete(request: Request, number: int, user=Depends(logged_in)):
    """Ask for a record to be stopped and deleted, with its files."""
    with _database(request).begin() as db:
        record = records.one(db, user, number)
        records.remove(db, record)
    return gone_to(request, f"/records/{record.kind}", status=202)


@router.get("/compare")
def compare(request: Request, user=Depends(logged_in)):
    """Two or more results side by side; without a choice, what there is to choose from."""
    chosen = [n for text in request.query_params.getlist("id")[:8] if (n := numbered(text)) is not None]
    options, series, found = _options(request), {}, []
    with _database(request).begin() as db:
        tests = [shown.row(r) for r in db.scalars(records.visible(user, "test").where(Record.state == "finished")
                                                  .limit(100))]  # fmt: skip
        for number in dict.fromkeys(chosen):
            record = records.one(db, user, number)
            results = shown.results(options.record(number))
            if results is not None:
                found.append(shown.row(record) | {"results": results})
                series |= {f"{record.id} {record.name}, {way}": line for way, line in results["series"].items()}
    words = translator(language_of(request.headers.get("accept-language", "")))
    steps = sorted({t for line in series.values() for t, _ in line})
    table = [{"way": way, "shares": [dict(line).get(t) for t in steps]} for way, line in series.items()]
    drawing = (
        "" if wants_json(request) or not series else shown.figure(found[0]["results"] | {"accuracy": {}}, words, series)
    )
    return page(request, "compare.html", {"tests": tests, "chosen": chosen, "records": found, "steps": steps,
                                          "table": table, "_drawing": drawing})  # fmt: skip

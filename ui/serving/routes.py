"""Plain routes beside Gradio's, and one in place of it: photos in, files out, and the pulse. All know whose they are."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from apt_engine.errors import DiskError, EngineError, RunError
from apt_engine.jobs.limits import LimitError, Uploads, size_of
from apt_engine.photos.captions import LARGEST_FILE, SUFFIX, read_caption
from apt_engine.reading.regular import open_regular
from apt_engine.runs import library
from apt_engine.runs.history import History, summarize
from apt_engine.runs.log import cleaned, log_of
from apt_engine.runs.metrics import to_csv
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_in
from ui.serving.allowed import CACHED_FILES, FILE_ROUTE, OWN_FILES, find_file
from ui.serving.tenants import Tenants, Workspace, address_of
from ui.words import say, told

LARGEST_PHOTO = 100_000_000
PHOTOS_AT_ONCE = 60
LONGEST_NAME = 60  # letters, of four bytes each at most; file systems take 255 bytes
LONGEST_LOG = 200_000  # bytes; the end of it says what went wrong
SHORT_LOG = 20_000  # of them, for who looks on
EXPORTS = ("kohya", "diffusers", "zip", "zip-with-photos", "csv")
Handler = Callable[[Request], Awaitable[Response]]


def routes(tenants: Tenants, cache_dir: Path) -> list[Route]:
    """The routes, each of which serves the workspace of whoever asks.

    Args:
        tenants: who has which workspace.
        cache_dir: Gradio's, with the pictures of the page itself; nothing of a visitor's where visitors share the machine.
    """
    coming = Uploads()
    return [
        Route(f"{FILE_ROUTE}{{path:path}}", _signed_in(_show(tenants, cache_dir)), methods=["GET"]),
        Route("/photos", _signed_in(_take_photos(tenants, coming)), methods=["POST"]),
        Route("/export/{run_id}/{kind}", _signed_in(_export(tenants, coming)), methods=["GET"]),
        Route("/pictures", _signed_in(_pictures(tenants, coming)), methods=["GET"]),
        Route("/pulse", _signed_in(_pulse(tenants)), methods=["GET"]),
        Route("/log", _signed_in(_log(tenants)), methods=["GET"]),
    ]


def _signed_in(handle: Handler) -> Handler:
    async def check(request: Request) -> Response:
        """Where there is a password these routes ask for it too; Gradio holds the tokens it gave out."""
        app = request.app
        if app.auth:
            cookies = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
            if not any(request.cookies.get(cookie) in app.tokens for cookie in cookies):
                return _refusal(say("Sign in first: open the page and give its password."), 401)
        return await handle(request)

    return check


def _show(tenants: Tenants, cache_dir: Path) -> Handler:
    async def show(request: Request) -> Response:
        """A picture or a LoRA file. Gradio's route of this name would fetch any address, and serve HTML as such."""
        folders = {tenants.find(request.headers).store.data_dir: OWN_FILES, cache_dir: CACHED_FILES}
        found = find_file(request.path_params["path"], folders)
        if found is None:
            return _refusal(say("APT Studio serves pictures and LoRA files only."), 403)
        path, media_type = found
        kind = "inline" if media_type.startswith("image/") else "attachment"
        return FileResponse(path, media_type=media_type, filename=path.name, content_disposition_type=kind)

    return show


def _pulse(tenants: Tenants) -> Handler:
    async def tell(request: Request) -> Response:
        """A mark that changes whenever the engine's state does, what others train, the pictures in line, or the run in view."""
        workspace = tenants.find(request.headers)
        size = workspace.store.size_of(request.query_params.get("run", ""))
        waiting = workspace.pictures.mark if workspace.pictures else ""
        return PlainTextResponse(f"{workspace.engine.status} {training_in(workspace.store)} {size} {waiting}")

    return tell


def _log(tenants: Tenants) -> Handler:
    async def tell(request: Request) -> Response:
        """The log of a run; without one the end of what the engine wrote, for the owner alone: it names what others do."""
        run_id, store = request.query_params.get("run", ""), tenants.find(request.headers).store
        if tenants.is_shared and not run_id:
            return _refusal(say("The log is for the owner of this Space."), 404)
        try:
            written = await run_in_threadpool(_written, store, run_id, with_engine=not tenants.is_shared)
        except EngineError as error:
            return _refusal(str(error), 404)
        return PlainTextResponse(written[-SHORT_LOG if "tail" in request.query_params else -LONGEST_LOG :])

    return tell


def _written(store: RunStore, run_id: str, *, with_engine: bool) -> str:
    """The log of a run, and after it, or without a run, what the engine wrote since it was woken last."""
    log = log_of(store.open(run_id), with_details=with_engine) if run_id else ""
    if not with_engine:
        return log
    try:
        with open_regular(store.data_dir / "engine.log") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LOG))
            engine = cleaned(file.read().decode(errors="replace"))
    except OSError:
        engine = ""
    if not run_id:
        return engine or say("The engine has written nothing yet.")
    return f"{log}\n\n{say('What the engine wrote besides:')}\n{engine}" if engine else log


def _take_photos(tenants: Tenants, uploads: Uploads) -> Handler:
    async def take(request: Request) -> Response:
        """Keep one photo under a name nobody can guess; of a caption file tell what it says, and keep nothing."""
        length = request.headers.get("content-length", "")
        announced = int(length[:20]) if length.isdecimal() else 0
        if announced > LARGEST_PHOTO:
            return _refusal(say("This file is larger than 100 MB; bring a smaller photo."), 413)
        workspace = tenants.find(request.headers)
        try:
            if not tenants.is_shared:
                return await _keep_photo(request, workspace)
            with contextlib.ExitStack() as upload:
                coming = uploads.into(workspace.store.data_dir, announced, address_of(request.headers))
                count = await run_in_threadpool(upload.enter_context, coming)
                return await _keep_photo(Request(request.scope, _counted(request.receive, count)), workspace)
        except LimitError as error:
            return _refusal(told(str(error)), 413)
        except ClientDisconnect:  # nobody is there to read this
            return _refusal(say("No file arrived; choose it again."), 400)

    return take


def _counted(receive: Receive, count: Callable[[int], None]) -> Receive:
    async def take() -> Message:
        message = await receive()
        count(len(message.get("body", b"")))
        return message

    return take


async def _keep_photo(request: Request, workspace: Workspace) -> Response:
    async with request.form(max_files=1) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            return _refusal(say("No file arrived; choose it again."), 400)
        name = re.sub(r"[^\w.\- ]", "_", Path(file.filename or "").name)[-LONGEST_NAME:].strip(" .") or "photo"
        if name.lower().endswith(SUFFIX):
            try:
                return JSONResponse({"caption": read_caption(await file.read(LARGEST_FILE + 1), name)})
            except EngineError as error:
                return _refusal(told(str(error)), 415)
        path = workspace.uploads_dir / secrets.token_hex(12) / name
        try:
            path.parent.mkdir(parents=True)
            path.write_bytes(await file.read())
        except OSError as error:
            sentence = say("{name} cannot be kept ({reason}); free some disk space.", name=name, reason=error.strerror)
            return _refusal(sentence, 507)
    return JSONResponse({"path": str(path), "name": name})


def _export(tenants: Tenants, coming: Uploads) -> Handler:
    async def export(request: Request) -> Response:
        """A LoRA file of a run, its numbers, or a zip made now. Other requests are answered meanwhile."""
        run_id, kind = request.path_params["run_id"], request.path_params["kind"]
        try:
            return await run_in_threadpool(_answer, tenants, request.headers, run_id, kind, coming)
        except EngineError as error:
            return _not_given(error)

    return export


def _pictures(tenants: Tenants, coming: Uploads) -> Handler:
    async def pack(request: Request) -> Response:
        """A zip of the visitor's own pictures: of the folders that `of` names, or all. Others are answered meanwhile."""
        folders = [name for name in request.query_params.get("of", "").split(",") if name]
        try:
            workspace = tenants.find(request.headers)
            with _room_for(workspace.store.data_dir / "generated", workspace, coming if tenants.is_shared else None):
                return await run_in_threadpool(_packed_pictures, workspace, folders)
        except EngineError as error:
            return _not_given(error)

    return pack


@contextlib.contextmanager
def _room_for(what: Path, workspace: Workspace, coming: Uploads | None) -> Iterator[None]:
    """Room in a visitor's folder for a zip of what lies in `what`, while it is made; afterwards it is a file like others.

    Raises:
        LimitError: there is none.
    """
    if coming is None:  # this computer is its owner's
        yield
        return
    size = size_of(what)
    with coming.into(workspace.store.data_dir, size) as count:
        count(size)
        yield


def _packed_pictures(workspace: Workspace, folders: list[str]) -> "FileForOnce":
    target = workspace.uploads_dir / f"packed-{secrets.token_hex(12)}" / "pictures.zip"
    try:
        return FileForOnce(library.pack_pictures(workspace.store, folders, target), filename=target.name)
    except EngineError:
        shutil.rmtree(target.parent, ignore_errors=True)
        raise


class FileForOnce(FileResponse):
    """A file in a folder of its own, made for one request: both are deleted when it was sent, or could not be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # a background task would not run for a visitor who has left
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)


def _answer(tenants: Tenants, headers: Mapping[str, str], run_id: str, kind: str, coming: Uploads) -> Response:
    if kind not in EXPORTS:
        known = ", ".join(EXPORTS)
        raise RunError(say("A run cannot be exported as {kind}; choose one of {known}.", kind=kind, known=known))
    workspace = tenants.find(headers)
    run = workspace.store.open(run_id)
    if kind == "csv":
        named = {"content-disposition": f'attachment; filename="{quote(run.id)}.csv"'}
        return Response(to_csv(History.of(run)), media_type="text/csv", headers=named)
    if kind.startswith("zip"):
        with _room_for(run.path, workspace, coming if tenants.is_shared else None):
            return _packed(workspace, run, with_photos=kind == "zip-with-photos")
    exported = summarize(run).exports.get(kind)
    path = run.path / exported.path if exported else None
    if path is None or not path.is_file() or not path.resolve().is_relative_to(run.path.resolve()):
        raise RunError(say("Run {run} has no {kind} file yet; let it finish, or stop it.", run=run.id, kind=kind))
    return FileResponse(path, filename=path.name)


def _packed(workspace: Workspace, run: Run, *, with_photos: bool) -> FileForOnce:
    folder = workspace.uploads_dir / f"packed-{secrets.token_hex(12)}"
    try:
        path = library.pack(run, folder / f"{run.id}.zip", with_photos=with_photos)
    except EngineError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return FileForOnce(path, filename=path.name)


def _not_given(error: EngineError) -> Response:
    status = 507 if isinstance(error, DiskError) else 413 if isinstance(error, LimitError) else 404
    return _refusal(told(str(error)), status)


def _refusal(sentence: str, status: int) -> Response:
    return JSONResponse({"error": sentence}, status_code=status)

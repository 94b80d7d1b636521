"""The web side: DATABASE_URL=… uvicorn --factory presgen.examples.web_app:create_app, and then open /docs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from presgen import DatabaseManager, PresentationJob, PresgenError, User, ValidationError, VoiceClone, queries
from presgen.errors import ConstraintViolation


class NewUser(BaseModel):
    name: str
    email: str | None = None


class NewVoice(BaseModel):
    name: str
    s3_path: str
    duration_seconds: float | None = None


class NewJob(BaseModel):
    voice_clone: int
    s3_pptx_path: str
    priority: int = 0
    idempotency_key: str | None = None


class Submission(BaseModel):
    user: NewUser
    voice: NewVoice
    s3_pptx_path: str


def create_app(manager: DatabaseManager | None = None) -> FastAPI:
    db = manager or DatabaseManager.from_env()
    # FastAPI runs `def` endpoints and their dependencies in any of its threads; a session may end in another one.
    Session = Annotated[Any, Depends(db.get_session)]

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        with db:
            yield

    app = FastAPI(title="Presentation videos", lifespan=opened)

    @app.exception_handler(PresgenError)
    async def refuse(request: Request, error: PresgenError) -> JSONResponse:
        if isinstance(error, ValidationError):
            return JSONResponse({"detail": str(error), "field": error.field}, 422)
        if isinstance(error, ConstraintViolation):
            return JSONResponse({"detail": str(error), "rule": error.constraint}, 409)
        # What may succeed in a moment is worth another try; everything else is ours to mend.
        return JSONResponse({"detail": "try again"}, 503 if error.retryable else 500, headers={"Retry-After": "1"})

    @app.post("/users", status_code=201)
    def add_user(given: NewUser) -> dict[str, Any]:
        user = User.create(**given.model_dump())
        return {"id": user.id, "email": user.email}

    @app.post("/users/{owner}/voices", status_code=201)
    def add_voice(owner: int, given: NewVoice) -> dict[str, Any]:
        voice = VoiceClone.create(owner=owner, **given.model_dump())
        return {"id": voice.id, "name": voice.name}

    @app.post("/users/{owner}/jobs", status_code=201)
    def add_job(owner: int, given: NewJob) -> dict[str, Any]:
        return shown(PresentationJob.enqueue(owner=owner, **given.model_dump()))

    @app.post("/submissions", status_code=201)
    def submit(given: Submission, session: Session) -> dict[str, Any]:
        with session.atomic():  # all of it, or nothing
            user = User.create(**given.user.model_dump())
            voice = VoiceClone.create(owner=user, **given.voice.model_dump())
            return shown(PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path=given.s3_pptx_path))

    @app.get("/jobs")
    def list_jobs(limit: int = 50, after: str | None = None, status: str | None = None) -> dict[str, Any]:
        page = queries.get_presentation_jobs(limit=limit, after=after, status=status)
        return {"jobs": [shown(job) for job in page], "next": page[-1].cursor if page and len(page) == limit else None}

    @app.get("/jobs/{number}")
    def show_job(number: int) -> dict[str, Any]:
        with db.session():  # one connection for both statements
            job = found(number)
            return {**shown(job), "history": [(event.to_status, event.at) for event in job.history()]}

    @app.delete("/jobs/{number}", status_code=202)
    def cancel_job(number: int) -> dict[str, Any]:
        job = found(number)
        job.cancel()
        return shown(job)

    @app.get("/health")
    def health() -> JSONResponse:
        found = db.health()
        return JSONResponse({"ok": found.ok, "error": found.error, **found.pool}, 200 if found.ok else 503)

    return app


def found(number: int) -> PresentationJob:
    job = PresentationJob.alive().where(PresentationJob.id == number).get_or_none()
    if job is None:
        raise HTTPException(404, "there is no such job")
    return job


def shown(job: PresentationJob) -> dict[str, Any]:
    names = ("id", "status", "progress", "attempt", "error_message", "s3_video_path", "created_at", "completed_at")
    return {"owner": job.owner_id, **{name: getattr(job, name) for name in names}}

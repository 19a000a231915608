"""Jobs and builds over HTTP. Folders nest, so the paths are taken apart here and not by the router."""

from __future__ import annotations

import json
from urllib.parse import unquote

from aiohttp import web

from standin import http, shapes
from standin.jobs import BadJob, Build, Job
from standin.pages import console_page, job_page

routes = web.RouteTableDef()


@routes.post("/createItem")
async def create_item(request: web.Request) -> web.Response:
    return await _create(request, "")


async def _create(request: web.Request, folder: str) -> web.Response:
    world = http.world(request)
    name = request.query.get("name", "")
    if not name:
        return http.refused(request, "Query parameter 'name' is required")
    full = f"{folder}/{name}" if folder else name
    if world.jobs.get(full):
        return http.refused(
            request,
            f"A job already exists with the name \N{LEFT SINGLE QUOTATION MARK}{name}\N{RIGHT SINGLE QUOTATION MARK}",
        )
    try:
        world.jobs.create(full, await request.read())
    except BadJob as error:
        return http.oops(request, 500, str(error))
    return http.empty()


def _split(path: str) -> tuple[str, list[str]]:
    """The job's full name, and what follows it."""
    parts = [unquote(p) for p in path.split("/")]
    names: list[str] = []
    while len(parts) >= 2 and parts[0] == "job":
        names.append(parts[1])
        parts = parts[2:]
    return "/".join(names), parts


@routes.route("*", "/{path:job/.+}")
async def job_path(request: web.Request) -> web.StreamResponse:
    name, rest = _split(request.raw_path.partition("?")[0].lstrip("/"))
    job = http.world(request).jobs.get(name)
    if job is None:
        return http.not_found(request)
    if rest and rest[0].isdigit():
        build = job.builds.get(int(rest[0]))
        return http.not_found(request) if build is None else await _on_build(request, build, "/".join(rest[1:]))
    if rest and rest[0] in ("lastBuild", "lastCompletedBuild") and job.last:
        return await _on_build(request, job.last, "/".join(rest[1:]))
    return await _on_job(request, job, "/".join(rest))


async def _on_job(request: web.Request, job: Job, what: str) -> web.StreamResponse:
    world = http.world(request)
    match request.method, what:
        case "GET", "api/json":
            return http.api_json(request, shapes.job(world, http.root(request), job))
        case "GET", "config.xml":
            return web.Response(body=job.config, headers={"Content-Type": "application/xml"})
        case "POST", "config.xml":
            try:
                job.read(await request.read())
            except BadJob as error:
                return http.oops(request, 500, str(error))
            return http.empty()
        case "POST", "build" | "buildWithParameters":
            return await _queue_build(request, job, with_parameters=what != "build")
        case "POST", "doDelete":
            world.jobs.delete(job)
            folder = job.name.rpartition("/")[0]
            return http.redirect(request, "".join(f"job/{p}/" for p in folder.split("/") if p))
        case "POST", "disable" | "enable":
            job.disabled = what == "disable"
            return http.redirect(request, job.url)
        case "POST", "createItem":
            return await _create(request, job.name)
        case "GET", "":
            return job_page(request, job)
        case _:
            return http.not_found(request)


def _delay(request: web.Request, form: dict[str, str]) -> float | None:
    text = form.get("delay") or request.query.get("delay")
    if text is None:
        return None
    number = text.removesuffix("sec").removesuffix("s").strip()
    return float(number) if number.replace(".", "", 1).isdigit() else None


async def _queue_build(request: web.Request, job: Job, *, with_parameters: bool) -> web.Response:
    world = http.world(request)
    form = {k: str(v) for k, v in (await request.post()).items()}
    if job.disabled or job.kind == "folder":
        return http.jetty(request, 409, f"{job.name} is not buildable")
    params = {**request.query, **form}
    if not with_parameters and job.defaults and "json" not in form:
        return http.jetty(request, 400, "Nothing is submitted")
    if with_parameters and not job.defaults:
        return http.oops(request, 500, f"{job.name} is not parameterized")
    if not with_parameters and "json" in form:
        given = json.loads(form["json"]).get("parameter", [])
        given = given if isinstance(given, list) else [given]
        params = {str(p["name"]): str(p["value"]) for p in given}
    item = world.queue_build(job, params, http.user(request), _delay(request, form))
    return web.Response(status=201, headers={"Location": f"{http.root(request)}queue/item/{item.id}/"})


async def _on_build(request: web.Request, build: Build, what: str) -> web.StreamResponse:
    world = http.world(request)
    match request.method, what:
        case "GET", "api/json":
            return http.api_json(request, shapes.build(world, http.root(request), build))
        case "GET", "consoleText":
            return http.plain(build.console.text)
        case "GET", "logText/progressiveText":
            return http.progressive(request, build.console.data, more=build.building)
        case "POST", "stop" | "term" | "kill":
            world.stop(build, http.user(request))
            return http.redirect(request, build.url)
        case "POST", "submitDescription":
            build.description = str((await request.post()).get("description", ""))
            return http.redirect(request, build.url)
        case "POST", "doDelete":
            if build.building:
                return http.jetty(request, 400, f"{build.full_display_name} is still running")
            del build.job.builds[build.number]
            return http.redirect(request, build.job.url)
        case "GET", "" | "console":
            return console_page(request, build)
        case _:
            return http.not_found(request)

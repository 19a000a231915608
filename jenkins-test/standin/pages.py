"""Plain pages to look at jobs, builds, nodes and consoles."""

from __future__ import annotations

from html import escape

from aiohttp import web

from standin import http
from standin.jobs import Build, Job
from standin.nodes import Node

routes = web.RouteTableDef()
_STYLE = (
    "<style>body{font:15px system-ui;margin:2em;max-width:70em}table{border-collapse:collapse;margin-bottom:2em}"
    "td,th{padding:.25em 1em .25em 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
    "pre{background:#111;color:#ddd;padding:1em;overflow:auto}.SUCCESS{color:#070}.FAILURE,.NOT_BUILT{color:#b00}"
    "</style><meta http-equiv='refresh' content='2'>"
)


def _page(request: web.Request, title: str, body: str) -> web.Response:
    return http.page(request, 200, title, f"{_STYLE}<h1>{escape(title)}</h1>{body}")


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _build_row(build: Build) -> list[str]:
    result = build.result or "running"
    return [
        f"<a href='/{escape(build.url)}console'>{escape(build.full_display_name)}</a>",
        f"<span class='{result}'>{result}</span>",
        escape(build.built_on),
        f"{build.duration_ms / 1000:.1f} s",
    ]


def _node_row(node: Node) -> list[str]:
    work = next((e.work for e in node.executors if e.work is not None), None)
    doing = escape(work.build.full_display_name) if work else ("idle" if node.online else "offline")
    return [escape(node.name), escape(" ".join(sorted(node.atoms - {node.name}))), doing]


@routes.get("/")
async def front(request: web.Request) -> web.Response:
    world = http.world(request)
    jobs = [
        [f"<a href='/{escape(j.url)}'>{escape(j.name)}</a>", j.kind, j.color, str(len(j.builds))]
        for j in world.jobs.by_name.values()
    ]
    builds = sorted(world.builds(), key=lambda b: b.started_ms, reverse=True)[:50]
    items = list(world.queue.items.values())[:100]
    queue = [[str(i.id), escape(i.task.url), escape(world.why(i) or "")] for i in items]
    return _page(
        request,
        "Stand-in controller",
        f"<h2>Queue ({len(world.queue.items)})</h2>"
        + _table(["item", "task", "why"], queue)
        + "<h2>Nodes</h2>"
        + _table(["node", "labels", ""], [_node_row(n) for n in list(world.nodes.by_name.values())[:200]])
        + "<h2>Builds</h2>"
        + _table(["build", "result", "node", "took"], [_build_row(b) for b in builds])
        + "<h2>Jobs</h2>"
        + _table(["job", "kind", "color", "builds"], jobs),
    )


def job_page(request: web.Request, job: Job) -> web.Response:
    builds = [job.builds[n] for n in sorted(job.builds, reverse=True)][:100]
    table = _table(["build", "result", "node", "took"], [_build_row(b) for b in builds])
    return _page(request, job.display, f"<p><a href='/'>all</a></p>{table}")


def console_page(request: web.Request, build: Build) -> web.Response:
    link = f"<p><a href='/{escape(build.job.url)}'>{escape(build.job.display)}</a></p>"
    return _page(request, build.full_display_name, f"{link}<pre>{escape(build.console.text)}</pre>")

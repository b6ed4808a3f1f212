"""A web page that shows what becomes of a user's runs while it happens, by server-sent events.

Run it with ``uvicorn examples.events_stream:app``, on a database with the schema and its roles.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse

from examples.fastapi_service import Token, answer_error
from platform_db import errors, get_engine
from platform_db.events import EventPage, read_events
from platform_db.tenancy import tenant_scope

app = FastAPI(title="What becomes of my runs")
app.add_exception_handler(errors.PlatformDBError, answer_error)  # type: ignore[arg-type]

PAUSE = 1.0  # seconds between two looks
LONGEST = 300.0  # seconds after which the browser has to come back, and its token is looked at again


# [reading]
def read(user_id: UUID, since: str) -> EventPage:
    """Read a page of the user's events, in a transaction that ends before any of them is sent."""
    with tenant_scope(get_engine(), user_id) as session:
        return read_events(session, since, entities=["workflow", "job"])


# [stream]
async def stream(user_id: UUID, page: EventPage) -> AsyncIterator[str]:
    """Yield a message for each event, and after each page the cursor that the browser comes back with."""
    end = time.monotonic() + LONGEST
    while True:
        for event in page.events:
            yield f"event: {event.kind}\ndata: {json.dumps(event.as_dict())}\n\n"
        yield f"id: {page.cursor}\n\n"
        if time.monotonic() >= end:
            return
        if page.drained:
            await asyncio.sleep(PAUSE)
        page = await run_in_threadpool(partial(read, user_id, page.cursor))


@app.get("/events")
def get_events(token: Token, last_event_id: Annotated[str, Header()] = "latest") -> StreamingResponse:
    """Stream the user's events: those from now on, or, to a browser that comes back, from where it was."""
    page = read(token.user_id, last_event_id)  # A forged cursor is refused before the answer begins.
    return StreamingResponse(stream(token.user_id, page), media_type="text/event-stream")


# [browser]
PAGE = """<!doctype html>
<title>My runs</title>
<input id="token" type="password" placeholder="token">
<ul id="events"></ul>
<script type="module">
function show(text) {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("events").prepend(item);
}
let id = "latest";
async function follow(token) {  // as EventSource does, which cannot send a token in a header
  const headers = { Authorization: `Bearer ${token}`, "Last-Event-ID": id };
  const answer = await fetch("/events", { headers });
  if (!answer.ok) {
    show(await answer.text());
    return false;
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part; !(part = await reader.read()).done; ) {
    const messages = (rest + part.value).split("\\n\\n");
    rest = messages.pop();
    for (const message of messages) {
      const fields = Object.fromEntries(message.split("\\n").map((line) => line.split(/: (.*)/)));
      id = fields.id ?? id;
      if (!fields.data) continue;
      const { kind, entity, entity_id, after, message: note } = JSON.parse(fields.data);
      show(`${entity} ${entity_id}: ${note ?? after ?? kind}`);
    }
  }
  return true;
}
document.getElementById("token").onchange = async ({ target }) => {
  while (await follow(target.value).catch(() => true)) {
    await new Promise((later) => setTimeout(later, 1000));
  }
};
</script>
"""


@app.get("/")
def show_page() -> HTMLResponse:
    """Show the page."""
    return HTMLResponse(PAGE)

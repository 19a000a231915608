"use strict";
const note = document.getElementById("note");

function say(text) {
  if (note) note.textContent = text;
}

// Buttons ask the API; what they do shows with the next refresh.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-path]");
  if (!button) return;
  if (button.dataset.ask && !window.confirm(button.dataset.ask)) return;
  button.disabled = true;
  try {
    const answer = await fetch(button.dataset.path, { method: button.dataset.method, body: button.dataset.body });
    const body = await answer.json().catch(() => ({}));
    say(answer.ok ? "" : body.error || `the sidecar answers ${answer.status}`);
    if (answer.status === 401) location.assign("/login");
    await refresh();
  } catch {
    say("the sidecar does not answer");
  } finally {
    button.disabled = false;
  }
});

// Only parts that changed are replaced, so that a selection or a scrolled table elsewhere stays as it is.
const parts = document.querySelectorAll("[data-part]");
const seen = new Map();

async function refresh() {
  if (!parts.length || document.hidden) return;
  try {
    const answer = await fetch(document.body.dataset.parts, { headers: { Accept: "application/json" } });
    if (answer.status === 401) return location.assign("/login");
    if (!answer.ok) return say(`the sidecar answers ${answer.status}`);
    const fresh = await answer.json();
    say("");
    for (const part of parts) {
      const html = fresh[part.dataset.part];
      if (html === undefined || seen.get(part) === html) continue;
      const chosen = window.getSelection();
      if (chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode)) continue;
      part.innerHTML = html; // escaped by the server, part by part
      seen.set(part, html);
    }
  } catch {
    say("the sidecar does not answer; trying again");
  }
}

if (parts.length) setInterval(refresh, 2000);
document.addEventListener("visibilitychange", refresh);

// A launch log, live.
const log = document.getElementById("log");
if (log) {
  const source = new EventSource(log.dataset.stream);
  source.addEventListener("line", (event) => {
    const line = JSON.parse(event.data);
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 40;
    const row = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = line.at.slice(11, 23);
    time.title = line.at;
    row.append(time, line.text);
    log.append(row);
    if (atEnd) window.scrollTo(0, document.body.scrollHeight);
  });
  source.addEventListener("end", () => {
    source.close();
    refresh();
  });
}

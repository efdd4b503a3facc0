"use strict";
// Pages work without this file; with it, logs, states and lists are updated as runs go on.

const MOST_LINES = 5000; // of a log in the page; the whole log can be downloaded

function follow(lines, after = "0") {
  const lost = document.getElementById("following");
  const endedBefore = lines.dataset.ended === "yes";
  let count = lines.childNodes.length;
  const source = new EventSource(`${lines.dataset.events}?after=${after}`);
  source.addEventListener("open", () => { lost.hidden = true; });
  source.addEventListener("error", () => {
    lost.hidden = false;
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 5000, lines, after); // refused: come back later
  });
  source.addEventListener("log", (event) => {
    const below = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 8;
    const texts = JSON.parse(event.data);
    after = event.lastEventId;
    lines.append(...texts.map((text) => document.createTextNode(text + "\n")));
    count += texts.length;
    while (count > MOST_LINES) {
      lines.firstChild.remove();
      count -= 1;
    }
    if (below) lines.scrollTop = lines.scrollHeight;
  });
  source.addEventListener("accuracy", (event) => showAccuracy(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    source.close();
    if (!endedBefore) location.reload(); // the page has results now
  });
  source.addEventListener("state", (event) => {
    const row = JSON.parse(event.data);
    const state = document.querySelector("[data-state]");
    if (!endedBefore && state && !state.classList.contains(row.state) && row.ended === null) location.reload();
  });
}

function showAccuracy(ways) {
  const place = document.getElementById("live");
  if (!place) return;
  const words = JSON.parse(place.dataset.words);
  const table = document.createElement("table");
  for (const way of ways) {
    const row = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    const extra = way.calibration === "none" ? "" : ", " + way.calibration.toUpperCase();
    head.textContent = `${words[way.schedule]}${extra}: ${way.images} / ${way.of}`;
    row.append(head);
    for (const [steps, share] of Object.entries(way.accuracy)) {
      row.insertCell().textContent = `T = ${steps}: ${(100 * share).toFixed(2)} %`;
    }
  }
  const wide = document.createElement("div");
  wide.className = "wide";
  wide.append(table);
  place.replaceChildren(wide);
}

async function followList(table) {
  let data;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(answer.status);
    data = await answer.json();
  } catch {
    return setTimeout(followList, 5000, table);
  }
  const rows = new Map(data.records.map((record) => [String(record.id), record]));
  let active = false;
  for (const line of table.querySelectorAll("[data-record]")) {
    const record = rows.get(line.dataset.record);
    const state = line.querySelector("[data-state]");
    if (!record || !state.classList.contains(record.state)) return location.reload();
    if (record.best !== null) line.querySelector("[data-best]").textContent = `${(100 * record.best).toFixed(2)} %`;
    active = active || record.ended === null || record.request === "delete";
  }
  if (active) setTimeout(followList, 3000, table);
}

function hideUnused(form) { // data set and network are fields only of training from scratch
  const source = form.querySelector("[name=source]");
  const scratch = form.querySelectorAll(".scratch");
  const update = () => scratch.forEach((field) => { field.hidden = source.value !== "scratch"; });
  if (source && scratch.length) {
    source.addEventListener("change", update);
    update();
  }
}

document.querySelectorAll("#lines").forEach((lines) => follow(lines));
document.querySelectorAll("[data-live-list]").forEach((table) => setTimeout(followList, 3000, table));
document.querySelectorAll("[data-form]").forEach(hideUnused);
document.querySelectorAll("[data-confirm]").forEach((form) => form.addEventListener("submit", (event) => {
  if (!confirm(form.dataset.confirm)) event.preventDefault();
}));

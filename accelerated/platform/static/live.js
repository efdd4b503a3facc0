"use strict";
// Pages work without this file; with it, logs, curves, states and lists are updated as runs go on. Each look is a short
// request, and hidden pages do not look, so that any number of open pages share a browser's few connections.

const MOST_LINES = 5000; // of a log in the page; the whole log can be downloaded
const EVERY = 1000; // milliseconds between two looks
const AGAIN = 4000; // after one that failed

const pause = (time) => new Promise((done) => setTimeout(done, time));
const shown = () => new Promise((done) => {
  if (!document.hidden) return done();
  document.addEventListener("visibilitychange", done, { once: true });
});

async function asked(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (answer.status === 401 || answer.status === 404) location.reload(); // logged out, or deleted
  if (!answer.ok) throw new Error(answer.status);
  return answer.json();
}

async function follow(lines) {
  const lost = document.getElementById("following");
  const endedBefore = lines.dataset.ended === "yes";
  const curves = new Curves(document.getElementById("curves"));
  const state = document.querySelector("[data-state]");
  let after = 0;
  for (;;) {
    await shown();
    let news;
    try {
      news = await asked(`${lines.dataset.news}?after=${after}&epochs=${curves.epochs.length}`);
      lost.hidden = true;
    } catch {
      lost.hidden = false;
      await pause(AGAIN);
      continue;
    }
    after = news.after;
    addLines(lines, news.lines);
    curves.add(news.epochs);
    if (news.accuracy.length) showAccuracy(news.accuracy);
    showNow(news);
    if (news.more) continue;
    if (news.record.ended !== null) {
      if (!endedBefore) location.reload(); // the page has results now
      return;
    }
    if (endedBefore || !state.classList.contains(news.record.state)) return location.reload();
    await pause(EVERY);
  }
}

function addLines(lines, texts) {
  const below = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 8;
  lines.append(...texts.map((text) => document.createTextNode(text + "\n")));
  while (lines.childNodes.length > MOST_LINES) lines.firstChild.remove();
  if (below) lines.scrollTop = lines.scrollHeight;
}

function lasting(seconds) {
  const minutes = Math.floor(seconds / 60);
  const two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(Math.floor(seconds % 60))}`;
}

function showNow(news) { // the time that is left, and what the machine does
  const now = document.getElementById("now");
  if (!now) return;
  const parts = [];
  if (news.left !== null) parts.push(now.dataset.left.replace("{time}", lasting(news.left)));
  if (news.load) {
    parts.push(now.dataset.load.replace("{processor}", Math.round(news.load.processor))
      .replace("{memory}", Math.round(news.load.memory)));
  }
  now.textContent = parts.join(" ");
  if (news.record.best !== null) document.getElementById("best-so-far").textContent = `${(100 * news.record.best).toFixed(2)} %`;
}

// Accuracy, loss and thresholds over epochs, drawn by uPlot.
class Curves {
  constructor(place) {
    this.place = place;
    this.epochs = [];
    this.plots = [];
  }

  add(epochs) {
    if (!epochs.length || !this.place) return;
    this.epochs.push(...epochs);
    this.place.hidden = false;
    const words = JSON.parse(this.place.dataset.words);
    const share = (key) => this.epochs.map((epoch) => 100 * epoch[key]);
    const number = (key) => this.epochs.map((epoch) => epoch[key]);
    this.draw(0, words.accuracy, [[words.train, share("train_accuracy")], [words.test, share("accuracy")]]);
    this.draw(1, words.loss, [[words.train, number("loss")], [words.test, number("test_loss")]]);
    const layers = [...new Set(this.epochs.flatMap((epoch) => Object.keys(epoch.thresholds || {})))];
    const of = (layer) => this.epochs.map((epoch) => (epoch.thresholds || {})[layer] ?? null);
    if (layers.length) this.draw(2, words.thresholds, layers.map((layer) => [layer, of(layer)]));
  }

  draw(index, title, series) {
    const data = [this.epochs.map((_, i) => i + 1), ...series.map(([, values]) => values)];
    const plot = this.plots[index];
    if (plot && plot.series.length === data.length) return plot.setData(data);
    if (plot) plot.destroy();
    const style = getComputedStyle(document.documentElement);
    const [ink, line] = ["--soft", "--line"].map((name) => style.getPropertyValue(name));
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
    const colour = (i) => `hsl(${(215 + 137 * i) % 360} 65% ${matchMedia("(prefers-color-scheme: dark)").matches ? 70 : 38}%)`;
    this.plots[index] = new uPlot({
      title,
      width: Math.min(this.place.clientWidth, 640),
      height: 230,
      scales: { x: { time: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }, { ...axis, size: 60 }],
      legend: { show: series.length < 9 },
      series: [{ label: this.place.dataset.epoch }, ...series.map(([label], i) => ({
        label, stroke: colour(i), width: 2, dash: i % 2 ? [6, 3] : undefined, value: (_, v) => (v === null ? "" : v.toPrecision(4)),
      }))],
    }, data, this.place);
  }
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
  for (let active = true; active;) {
    await pause(3000);
    await shown();
    let data;
    try {
      data = await asked(location.href);
    } catch {
      continue;
    }
    const rows = new Map(data.records.map((record) => [String(record.id), record]));
    active = false;
    for (const line of table.querySelectorAll("[data-record]")) {
      const record = rows.get(line.dataset.record);
      const state = line.querySelector("[data-state]");
      if (!record || !state.classList.contains(record.state)) return location.reload();
      if (record.best !== null) line.querySelector("[data-best]").textContent = `${(100 * record.best).toFixed(2)} %`;
      active = active || record.ended === null || record.request === "delete";
    }
  }
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

document.querySelectorAll("#lines").forEach(follow);
document.querySelectorAll("[data-live-list]").forEach(followList);
document.querySelectorAll("[data-form]").forEach(hideUnused);
document.querySelectorAll("[data-confirm]").forEach((form) => form.addEventListener("submit", (event) => {
  if (!confirm(form.dataset.confirm)) event.preventDefault();
}));

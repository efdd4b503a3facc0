// The page: a drawing in, spikes of every layer and a sentence out. All numbers come from network.js.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id), { most, shape: [channels, rows, columns] } = PROGRAM.nodes[0];
  const paper = byId("paper"), pen = paper.getContext("2d"), area = rows * columns;
  [paper.width, paper.height] = [columns, rows].map((n) => n * Math.max(1, Math.floor(256 / Math.max(rows, columns))));
  const cell = paper.width / columns, gap = 2, wide = 720;
  const neurons = PROGRAM.nodes.filter((node) => node.op === "neuron");
  const image = new Array(channels * area).fill(0);
  const levels = Math.max(...neurons.map((node) => node.levels)), same = neurons.every((node) => node.levels === levels);
  const deepest = Math.max(...Object.values(Network.depths(PROGRAM))), longest = 2 * (deepest + 1) * levels, last = 1000;
  let run, quantised, spikes, exactSince, at = 0, timer = null, pointed = null, due = null;

  const best = (values) => values.indexOf(Math.max(...values));
  const exact = () => neurons.every((node) => run.sent[node.name].every((n, i) => n === quantised[node.name][i]));

  // A pixel as it is shown: one channel is ink on paper, three are colours.
  const colour = (i) => (channels === 3 ? [0, 1, 2].map((c) => Math.round(255 * image[c * area + i] / most))
    : Array(3).fill(255 - Math.round(255 * image[i] / most)));

  function paint() {
    for (let i = 0; i < area; i++) {
      pen.fillStyle = `rgb(${colour(i)})`;
      pen.fillRect((i % columns) * cell, Math.floor(i / columns) * cell, cell, cell);
    }
    if (document.activeElement === paper) {
      pen.strokeStyle = "#f39c12";
      pen.lineWidth = Math.min(3, cell / 4);
      pen.strokeRect((at % columns) * cell, Math.floor(at / columns) * cell, cell, cell);
    }
  }

  function begin() {
    run = new Run(PROGRAM, document.querySelector("[name=schedule]:checked").value, image);
    quantised = Network.values(PROGRAM, image);
    [spikes, exactSince] = [0, null];
    show();
  }

  function step() {
    if (run.now >= last) return;  // while streaming, sums grow without end
    spikes += run.step();
    if (!exact()) exactSince = null;
    else if (exactSince === null) exactSince = run.now;
    show();
  }

  // Whether nothing more will come: what was sent is the quantised network's, and nothing fired in this step.
  const over = () => exactSince !== null && Object.values(run.fired).every((fired) => fired.every((s) => !s));

  function sentence() {
    if (!run.now) return ["open", `Nothing has fired. The quantised network says ${best([...quantised[PROGRAM.answer]])}.`];
    const said = `Step ${run.now}, ${spikes} spikes: the spiking network says ${best([...run.answer])}, ` +
      `the quantised one ${best([...quantised[PROGRAM.answer]])}. `;
    const equal = run.answer.every((value, i) => value === quantised[PROGRAM.answer][i]);
    if (run.schedule === "streaming")
      return run.now !== levels || !same ? ["open", said]
        : [exact() ? "exact" : "missed", said + (exact() ? "Every count is the level." : "Counts are not the levels, and need not become so.")];
    if (exactSince !== null && equal) return ["exact", said + `Exact since step ${exactSince}: every level, every bit of the answer.`];
    return ["open", said + "Not exact yet."];
  }

  function show() {
    const [kind, words] = sentence();
    byId("verdict").className = kind;
    byId("verdict").textContent = words;
    const divisor = run.schedule === "streaming" ? Math.max(run.now, 1) : 1, right = [...quantised[PROGRAM.answer]];
    const rows = [...run.answer].map((value, i) => {
      const mine = value / divisor, differs = mine !== right[i] ? ' class="differs"' : "";
      return `<tr${i === best([...run.answer]) && run.now ? ' class="best"' : ""}><th scope="row">${i}</th>` +
        `<td${differs}>${run.schedule === "streaming" ? mine.toFixed(1) : mine}</td><td>${right[i]}</td></tr>`;
    });
    byId("answers").tBodies[0].innerHTML = rows.join("");
    for (const node of neurons) layer(node);
    describe();
  }

  const planes = new Map(neurons.map((node) => [node, node.shape.length === 3 ? node.shape : [1, 1, Network.size(node.shape)]]));
  const scaleOf = (node) => Math.max(1, Math.min(5, Math.floor(80 / planes.get(node)[1]), Math.floor(wide / planes.get(node)[2])));
  const tiles = (node) => {
    const [many, , width] = planes.get(node);
    return Math.max(1, Math.min(many, 12, Math.floor(wide / (width * scaleOf(node) + gap))));
  };
  // Where neuron i of a layer is drawn: its channel's tile, its row and column.
  function place(node, i) {
    const [, height, width] = planes.get(node), scale = scaleOf(node), channel = Math.floor(i / (height * width));
    return [(channel % tiles(node)) * (width * scale + gap) + (i % width) * scale,
      Math.floor(channel / tiles(node)) * (height * scale + gap) + (Math.floor(i / width) % height) * scale];
  }

  function layer(node) {
    const canvas = byId("layer-" + node.name), pen = canvas.getContext("2d"), scale = scaleOf(node);
    const sent = run.sent[node.name], fired = run.fired[node.name], top = run.schedule === "streaming" ? Math.max(run.now, 1) : node.levels;
    for (let i = 0; i < sent.length; i++) {
      const grey = 250 - Math.round(170 * sent[i] / top), s = fired ? fired[i] : 0;
      pen.fillStyle = s > 0 ? "#2878b5" : s < 0 ? "#c82423" : `rgb(${grey},${grey},${grey})`;
      pen.fillRect(...place(node, i), scale, scale);
    }
    const now = fired ? fired.reduce((sum, s) => sum + (s ? 1 : 0), 0) : 0;
    byId("caption-" + node.name).textContent =
      `${node.name}: ${node.shape.join(" x ")} neurons, depth ${run.depth[node.name]}; ${now} spikes in this step`;
  }

  function describe() {
    if (!pointed) return;
    const [node, i] = pointed, [, height, width] = planes.get(node), d = Network.spread(node.factor, node.shape)(i);
    const fired = run.fired[node.name] ? run.fired[node.name][i] : 0;
    byId("neuron").textContent = `${node.name}, channel ${Math.floor(i / (height * width))}, row ${Math.floor(i / width) % height}, ` +
      `column ${i % width}: membrane ${run.membranes[node.name][i]} (a level is worth ${d}), sent ${run.sent[node.name][i]}, ` +
      `level of the quantised network ${quantised[node.name][i]}${fired ? fired > 0 ? "; a spike now" : "; a spike taken back now" : ""}`;
  }

  function layers() {
    for (const node of neurons) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption"), canvas = document.createElement("canvas");
      const [many, height, width] = planes.get(node), across = tiles(node), scale = scaleOf(node);
      Object.assign(canvas, { id: "layer-" + node.name, width: across * (width * scale + gap),
        height: Math.ceil(many / across) * (height * scale + gap), tabIndex: 0 });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-describedby", "neuron");
      canvas.setAttribute("aria-label", `spikes of ${node.name}`);
      caption.id = "caption-" + node.name;
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect(), x = (event.clientX - box.left) * canvas.width / box.width;
        const y = (event.clientY - box.top) * canvas.height / box.height;
        const column = Math.floor(x / (width * scale + gap)), row = Math.floor(y / (height * scale + gap));
        const i = Math.floor((x % (width * scale + gap)) / scale), j = Math.floor((y % (height * scale + gap)) / scale);
        if (i < width && j < height && row * across + column < many) pointed = [node, ((row * across + column) * height + j) * width + i];
        describe();
      });
      const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width };
      canvas.addEventListener("keydown", (event) => {
        if (!(event.key in moves)) return;
        event.preventDefault();
        const from = pointed && pointed[0] === node ? pointed[1] : 0, all = many * height * width;
        pointed = [node, Math.min(Math.max(from + moves[event.key], 0), all - 1)];
        describe();
      });
      figure.append(caption, canvas);
      byId("layers").append(figure);
    }
  }

  const parts = () => (channels === 3 ? [1, 3, 5].map((n) => parseInt(byId("ink").value.slice(n, n + 2), 16) / 255) : [1]);
  const where = (i) => `Row ${Math.floor(i / columns) + 1}, column ${i % columns + 1}: ` +
    `${[...Array(channels).keys()].map((c) => image[c * area + i]).join(", ")} of ${most}.`;

  // Put a part of the colour on a pixel: ink only becomes darker, colours replace.
  function put(i, strength) {
    parts().forEach((part, c) => {
      const value = Math.round(most * part * strength), k = c * area + i;
      image[k] = channels === 3 ? Math.round(image[k] * (1 - strength) + value) : Math.max(image[k], value);
    });
  }

  // Begin again once the drawing pauses: a large network takes a moment.
  function changed() {
    paint();
    cancelAnimationFrame(due);
    due = requestAnimationFrame(begin);
  }

  function set(i, values) {
    values.forEach((value, c) => { image[c * area + i] = value; });
    byId("pixel").textContent = where(i);
    changed();
  }

  function brush(event) {
    const box = paper.getBoundingClientRect(), x = Math.floor((event.clientX - box.left) / box.width * columns);
    const y = Math.floor((event.clientY - box.top) / box.height * rows);
    if (x < 0 || y < 0 || x >= columns || y >= rows) return;
    const around = [[0, 0, 1], [1, 0, 0.3], [-1, 0, 0.3], [0, 1, 0.3], [0, -1, 0.3]];
    for (const [dx, dy, strength] of around) {
      const [column, row] = [x + dx, y + dy];
      if (column >= 0 && row >= 0 && column < columns && row < rows) put(row * columns + column, strength);
    }
    changed();
  }

  // An image of any size, as it is shown: brought to the network's pixels.
  function uploaded(file) {
    const picture = new Image();
    picture.onload = () => {
      const small = document.createElement("canvas"), brush = small.getContext("2d");
      [small.width, small.height] = [columns, rows];
      brush.drawImage(picture, 0, 0, columns, rows);
      URL.revokeObjectURL(picture.src);
      const bytes = brush.getImageData(0, 0, columns, rows).data;
      for (let i = 0; i < area; i++) {
        const [red, green, blue] = bytes.slice(4 * i, 4 * i + 3), grey = 0.299 * red + 0.587 * green + 0.114 * blue;
        (channels === 3 ? [red, green, blue] : [255 - grey]).forEach((value, c) => { image[c * area + i] = Math.round(value * most / 255); });
      }
      changed();
    };
    picture.onerror = () => { byId("pixel").textContent = `${file.name} is no image that this browser reads.`; };
    picture.src = URL.createObjectURL(file);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    byId("play").textContent = "Run";
    byId("play").setAttribute("aria-pressed", "false");
  }

  paper.addEventListener("pointerdown", (event) => { paper.setPointerCapture(event.pointerId); brush(event); });
  paper.addEventListener("pointermove", (event) => { if (event.buttons) brush(event); });
  paper.addEventListener("focus", paint);
  paper.addEventListener("blur", paint);
  paper.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (event.key in moves) at = (at + moves[event.key] + area) % area;
    else if (event.key === " " && channels === 3) set(at, parts().map((part) => Math.round(most * part)));
    else if (event.key === " ") set(at, [Math.min(image[at] + Math.ceil(most / 4), most)]);
    else if (event.key === "Delete" || event.key === "Backspace") set(at, Array(channels).fill(0));
    else return;
    event.preventDefault();
    byId("pixel").textContent = where(at);
    paint();
  });
  const load = (pixels) => { pixels.forEach((value, i) => { image[i] = value; }); paint(); begin(); };
  PROGRAM.examples.forEach((example, i) => byId("example").add(new Option(`a ${example.label}`, i)));
  byId("example").addEventListener("change", (event) => load(PROGRAM.examples[event.target.value].pixels));
  byId("upload").addEventListener("change", (event) => { if (event.target.files[0]) uploaded(event.target.files[0]); });
  byId("clear").addEventListener("click", () => load(image.map(() => 0)));
  byId("schedules").addEventListener("change", () => { stop(); begin(); });
  byId("step").addEventListener("click", () => { stop(); step(); });
  byId("reset").addEventListener("click", () => { stop(); begin(); });
  byId("play").addEventListener("click", () => {
    if (timer) return stop();
    if (over() || run.now >= longest) begin();
    byId("play").textContent = "Stop";
    byId("play").setAttribute("aria-pressed", "true");
    timer = setInterval(() => { step(); if (over() || run.now >= longest) stop(); }, 400);
  });
  at = Math.floor(rows / 2 - 0.5) * columns + Math.floor(columns / 2 - 0.5);
  byId("ink-label").hidden = channels !== 3;
  document.querySelector("[value=integrate-then-fire]").disabled = !same;  // its phases have one length
  layers();
  byId("example").value = Math.min(3, PROGRAM.examples.length - 1);
  load(PROGRAM.examples[byId("example").value].pixels);
})();

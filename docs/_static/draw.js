// The page: a drawing in, spikes of every layer and a sentence out. All numbers come from network.js.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id), side = 8, most = DIGITS.nodes[0].most;
  const paper = byId("paper"), ink = paper.getContext("2d"), cell = paper.width / side;
  const neurons = DIGITS.nodes.filter((node) => node.op === "neuron");
  const image = new Array(side * side).fill(0), scale = 5, gap = 2;
  let run, quantised, spikes, exactSince, at = 27, timer = null, pointed = null;

  const best = (values) => values.indexOf(Math.max(...values));
  const exact = () => neurons.every((node) => run.sent[node.name].every((n, i) => n === quantised[node.name][i]));

  function paint() {
    image.forEach((value, i) => {
      const grey = 255 - Math.round(255 * value / most);
      ink.fillStyle = `rgb(${grey},${grey},${grey})`;
      ink.fillRect((i % side) * cell, Math.floor(i / side) * cell, cell, cell);
    });
    if (document.activeElement === paper) {
      ink.strokeStyle = "#f39c12";
      ink.lineWidth = 3;
      ink.strokeRect((at % side) * cell + 2, Math.floor(at / side) * cell + 2, cell - 4, cell - 4);
    }
  }

  function begin() {
    run = new Run(DIGITS, document.querySelector("[name=schedule]:checked").value, image);
    quantised = Network.values(DIGITS, image);
    [spikes, exactSince] = [0, null];
    show();
  }

  function step() {
    spikes += run.step();
    if (!exact()) exactSince = null;
    else if (exactSince === null) exactSince = run.now;
    show();
  }

  // Whether nothing more will come: what was sent is the quantised network's, and nothing fired in this step.
  const over = () => exactSince !== null && Object.values(run.fired).every((fired) => fired.every((s) => !s));

  function sentence() {
    if (!run.now) return ["open", `Nothing has fired. The quantised network says ${best([...quantised[DIGITS.answer]])}.`];
    const said = `Step ${run.now}, ${spikes} spikes: the spiking network says ${best([...run.answer])}, ` +
      `the quantised one ${best([...quantised[DIGITS.answer]])}. `;
    const same = run.answer.every((value, i) => value === quantised[DIGITS.answer][i]);
    if (run.schedule === "streaming")
      return run.now < neurons[0].levels ? ["open", said]
        : ["missed", said + (exact() ? "Every count is the level." : "Counts are not the levels, and need not become so.")];
    if (exactSince !== null && same) return ["exact", said + `Exact since step ${exactSince}: every level, every bit of the answer.`];
    return ["open", said + "Not exact yet."];
  }

  function show() {
    const [kind, words] = sentence();
    byId("verdict").className = kind;
    byId("verdict").textContent = words;
    const divisor = run.schedule === "streaming" ? Math.max(run.now, 1) : 1, right = [...quantised[DIGITS.answer]];
    const rows = [...run.answer].map((value, i) => {
      const mine = value / divisor, differs = mine !== right[i] ? ' class="differs"' : "";
      return `<tr${i === best([...run.answer]) && run.now ? ' class="best"' : ""}><th scope="row">${i}</th>` +
        `<td${differs}>${run.schedule === "streaming" ? mine.toFixed(1) : mine}</td><td>${right[i]}</td></tr>`;
    });
    byId("answers").tBodies[0].innerHTML = rows.join("");
    for (const node of neurons) layer(node);
    describe();
  }

  const tiles = (node) => Math.min(node.shape[0], 12);
  // Where neuron i of a layer is drawn: its channel's tile, its row and column.
  function place(node, i) {
    const [, height, width] = node.shape, channel = Math.floor(i / (height * width));
    return [(channel % tiles(node)) * (width * scale + gap) + (i % width) * scale,
      Math.floor(channel / tiles(node)) * (height * scale + gap) + (Math.floor(i / width) % height) * scale];
  }

  function layer(node) {
    const canvas = byId("layer-" + node.name), pen = canvas.getContext("2d");
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
    const [node, i] = pointed, [, height, width] = node.shape, d = Network.spread(node.factor, node.shape)(i);
    const fired = run.fired[node.name] ? run.fired[node.name][i] : 0;
    byId("neuron").textContent = `${node.name}, channel ${Math.floor(i / (height * width))}, row ${Math.floor(i / width) % height}, ` +
      `column ${i % width}: membrane ${run.membranes[node.name][i]} (a level is worth ${d}), sent ${run.sent[node.name][i]}, ` +
      `level of the quantised network ${quantised[node.name][i]}${fired ? fired > 0 ? "; a spike now" : "; a spike taken back now" : ""}`;
  }

  function layers() {
    for (const node of neurons) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption"), canvas = document.createElement("canvas");
      const [many, height, width] = node.shape, columns = tiles(node);
      Object.assign(canvas, { id: "layer-" + node.name, width: columns * (width * scale + gap),
        height: Math.ceil(many / columns) * (height * scale + gap), tabIndex: 0 });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-describedby", "neuron");
      canvas.setAttribute("aria-label", `spikes of ${node.name}`);
      caption.id = "caption-" + node.name;
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect(), x = (event.clientX - box.left) * canvas.width / box.width;
        const y = (event.clientY - box.top) * canvas.height / box.height;
        const column = Math.floor(x / (width * scale + gap)), row = Math.floor(y / (height * scale + gap));
        const i = Math.floor((x % (width * scale + gap)) / scale), j = Math.floor((y % (height * scale + gap)) / scale);
        if (i < width && j < height && row * columns + column < many) pointed = [node, ((row * columns + column) * height + j) * width + i];
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

  function set(i, value) {
    image[i] = value;
    const text = `Row ${Math.floor(i / side) + 1}, column ${i % side + 1}: ${value} of ${most}.`;
    byId("pixel").textContent = text;
    paint();
    begin();
  }

  function brush(event) {
    const box = paper.getBoundingClientRect(), x = Math.floor((event.clientX - box.left) / box.width * side);
    const y = Math.floor((event.clientY - box.top) / box.height * side);
    if (x < 0 || y < 0 || x >= side || y >= side) return;
    for (const [dx, dy, value] of [[0, 0, most], [1, 0, 5], [-1, 0, 5], [0, 1, 5], [0, -1, 5]]) {
      const [column, row] = [x + dx, y + dy], i = row * side + column;
      if (column >= 0 && row >= 0 && column < side && row < side) image[i] = Math.max(image[i], value);
    }
    paint();
    begin();
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
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: side, ArrowUp: -side };
    if (event.key in moves) at = (at + moves[event.key] + side * side) % (side * side);
    else if (event.key === " ") set(at, Math.min(image[at] + 4, most));
    else if (event.key === "Delete" || event.key === "Backspace") set(at, 0);
    else return;
    event.preventDefault();
    byId("pixel").textContent = `Row ${Math.floor(at / side) + 1}, column ${at % side + 1}: ${image[at]} of ${most}.`;
    paint();
  });
  const load = (pixels) => { pixels.forEach((value, i) => { image[i] = value; }); paint(); begin(); };
  DIGITS.examples.forEach((example, i) => byId("example").add(new Option(`a ${example.label}`, i)));
  byId("example").addEventListener("change", (event) => load(DIGITS.examples[event.target.value].pixels));
  byId("clear").addEventListener("click", () => load(image.map(() => 0)));
  byId("schedules").addEventListener("change", () => { stop(); begin(); });
  byId("step").addEventListener("click", () => { stop(); step(); });
  byId("reset").addEventListener("click", () => { stop(); begin(); });
  byId("play").addEventListener("click", () => {
    if (timer) return stop();
    if (over()) begin();
    byId("play").textContent = "Stop";
    byId("play").setAttribute("aria-pressed", "true");
    timer = setInterval(() => { step(); if (over() || run.now >= 64) stop(); }, 400);
  });
  layers();
  byId("example").value = 3;
  load(DIGITS.examples[3].pixels);
})();

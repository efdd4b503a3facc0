// The page: sliders in, two drawings and a sentence out. All numbers come from neuron.js.
"use strict";
(() => {
  const form = document.getElementById("play-controls"), verdict = document.getElementById("play-verdict");
  const picture = document.getElementById("play-picture"), stairs = document.getElementById("play-stairs");
  const run = (p, z) => {
    const currents = Neuron.currents(z, p.T, p.order, p.spread);
    if (p.schedule === "signed") return { currents, ...Neuron.signed(currents, p.theta, p.L, p.start) };
    const neuron = p.schedule === "streaming" ? Neuron.streaming : Neuron.integrateThenFire;
    return { currents, ...neuron(currents, p.theta, p.start * p.theta) };
  };
  const worth = (p, count) => p.theta * count / (p.schedule === "signed" ? p.L : p.T);
  const line = (points, style) => `<polyline fill="none" points="${points.map((q) => q.join(",")).join(" ")}" ${style}/>`;
  const text = (x, y, words, style = "") => `<text x="${x}" y="${y}" ${style}>${words}</text>`;

  function draw() {
    const p = {};
    for (const field of form.elements) {
      if (!field.name) continue;
      p[field.name] = field.type === "range" ? Number(field.value) : field.value;
      if (field.type === "range") field.closest("label").querySelector("output").textContent = field.value;
    }
    const r = run(p, p.z), level = Neuron.level(p.z, p.theta, p.L, 0.5);
    const value = p.theta * level / p.L, said = worth(p, r.count);
    const equal = Math.abs(said - value) < 1e-9;
    const compare = p.schedule === "signed" || p.T === p.L;
    verdict.className = equal ? "equal" : "missed";
    verdict.textContent =
      `${r.count} spikes${p.schedule === "signed" ? " (those taken back subtracted)" : ""}: the neuron says ${said.toFixed(3)}; ` +
      `level ${level} of ${p.L}: the activation says ${value.toFixed(3)}. ` +
      (equal ? "Equal." : `MISMATCH of ${(said - value).toFixed(3)}.`) +
      (compare ? "" : " (T is not L, so they need not agree.)");

    const steps = r.spikes.length, all = r.membranes.flat();
    const top = Math.max(p.theta * 1.3, ...all), low = Math.min(-p.theta * 0.3, ...all);
    const X = (t) => 50 + 730 * t / steps, Y = (v) => 250 - 220 * (v - low) / (top - low);
    const unit = p.schedule === "signed" ? p.theta / p.L : p.theta;
    const path = [[X(0), Y(p.schedule === "signed" ? p.start * unit : p.start * p.theta)]];
    r.membranes.forEach(([before, after], t) => path.push([X(t + 1), Y(before)], [X(t + 1), Y(after)]));
    let svg = line([[50, Y(unit)], [780, Y(unit)]], 'class="rule"') + text(52, Y(unit) - 4, p.schedule === "signed" ? "theta / L" : "threshold");
    svg += line([[50, Y(0)], [780, Y(0)]], 'class="axis"') + line(path, 'class="membrane"');
    r.spikes.forEach((s, t) => {
      if (s) svg += line([[X(t + 1), 285], [X(t + 1), s > 0 ? 262 : 298]], `class="${s > 0 ? "spike" : "back"}"`);
    });
    picture.innerHTML = svg + text(2, 285, "spikes") + text(2, 20, "V");

    const zs = Array.from({ length: 361 }, (_, i) => -1 + i / 120);
    const SX = (z) => 50 + 730 * (z + 1) / 3, SY = (v) => 200 - 180 * v / (1.15 * p.theta);
    svg = line(zs.map((z) => [SX(z), SY(p.theta * Neuron.level(z, p.theta, p.L, 0.5) / p.L)]), 'class="level"');
    svg += line(zs.map((z) => [SX(z), SY(worth(p, run(p, z).count))]), 'class="count"');
    svg += `<circle cx="${SX(p.z)}" cy="${SY(said)}" r="6" class="${equal ? "equal" : "missed"}"/>`;
    stairs.innerHTML = svg + text(52, 16, "grey: the activation; blue: this neuron, over the mean current z");
  }
  form.addEventListener("input", draw);
  draw();
})();

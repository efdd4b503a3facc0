// A network in whole numbers, step by step, on the nodes that accelerated/exports/program.py describes; no page in it.
// The rules are those of accelerated/exports/c.py; test_play.py compares every level and spike with the package's.
"use strict";
const Network = {
  size: (shape) => shape.reduce((a, b) => a * b, 1),
  plane: (shape) => (shape.length === 1 ? [shape[0], 1, 1] : shape),

  // The constant of number i of a value: one for all, for each channel, or for each number.
  spread(factor, shape) {
    const each = Network.size(shape) / factor.length;
    return (i) => factor[Math.floor(i / each)];
  },

  // out += the convolution of x: a row of weights for each x that is not 0.
  convolve(node, from, x, out) {
    const linear = node.op === "linear", [many, height, width] = linear ? [x.length, 1, 1] : Network.plane(from);
    const [outs, down, across] = linear ? [node.shape[0], 1, 1] : node.shape;
    const [kh, kw] = linear ? [1, 1] : node.window, [sh, sw] = node.stride || [1, 1], [ph, pw] = node.padding || [0, 0];
    const [dh, dw] = node.dilation || [1, 1], groups = node.groups || 1, inside = many / groups, rows = outs / groups;
    for (let i = 0; i < x.length; i++) {
      if (!x[i]) continue;
      const c = Math.floor(i / (height * width)), row = Math.floor(i / width) % height, column = i % width;
      const first = Math.floor(c / inside) * rows;
      for (let o = first; o < first + rows; o++)
        for (let y = 0; y < kh; y++) {
          const to = row + ph - y * dh;
          if (to < 0 || to % sh || to / sh >= down) continue;
          for (let z = 0; z < kw; z++) {
            const at = column + pw - z * dw;
            if (at < 0 || at % sw || at / sw >= across) continue;
            out[(o * down + to / sh) * across + at / sw] += x[i] * node.weight[((o * inside + c % inside) * kh + y) * kw + z];
          }
        }
    }
  },

  // Over the windows of each channel: combine(so far or null, value).
  pool(node, from, x, out, combine) {
    const [, height, width] = from, [many, down, across] = node.shape;
    for (let c = 0, n = 0; c < many; c++)
      for (let i = 0; i < down; i++)
        for (let j = 0; j < across; j++, n++) {
          let found = null;
          for (let y = 0; y < node.window[0]; y++)
            for (let z = 0; z < node.window[1]; z++) {
              const row = i * node.stride[0] + y - node.padding[0], column = j * node.stride[1] + z - node.padding[1];
              if (row < 0 || row >= height || column < 0 || column >= width) continue;
              found = combine(found, x[(c * height + row) * width + column]);
            }
          out[n] = found;
        }
  },

  // What a linear operator makes of its inputs; of changes, if biases are left out.
  linear(node, shapes, inputs, biased) {
    const out = new Int32Array(Network.size(node.shape));
    if (node.op === "conv2d" || node.op === "linear") {
      const bias = Network.spread(node.bias, node.shape);
      if (biased) for (let i = 0; i < out.length; i++) out[i] = bias(i);
      Network.convolve(node, shapes[0], inputs[0], out);
    } else if (node.op === "sum_pool2d") {
      Network.pool(node, shapes[0], inputs[0], out, (a, b) => (a || 0) + b);
    } else if (node.op === "add") {
      for (let i = 0; i < out.length; i++) out[i] = inputs[0][i] + inputs[1][i];
    } else if (node.op === "scale") {
      const factor = Network.spread(node.factor, node.shape);
      for (let i = 0; i < out.length; i++) out[i] = inputs[0][i] * factor(i);
    } else if (node.op === "gather") {
      const row = inputs.flatMap((part) => [...part]);
      node.index.forEach((from, i) => { out[i] = from < 0 ? 0 : row[from]; });
    } else throw new Error("no such operator: " + node.op);
    return out;
  },

  maxima(node, shape, x) {
    const out = new Int32Array(Network.size(node.shape));
    Network.pool(node, shape, x, out, (a, b) => (a === null ? b : Math.max(a, b)));
    return out;
  },

  pixels(node, image) {
    const zero = Network.spread(node.zero, node.shape);
    return Int32Array.from(image, (pixel, i) => pixel - zero(i));
  },

  shapes: (program, node) => node.inputs.map((name) => program.nodes.find((n) => n.name === name).shape),

  // {name: values} of the quantised network: levels of its activations, sums of all else.
  values(program, image) {
    const values = {};
    for (const node of program.nodes) {
      const inputs = node.inputs.map((name) => values[name]), shapes = Network.shapes(program, node);
      if (node.op === "image") values[node.name] = Network.pixels(node, image);
      else if (node.op === "max_pool2d") values[node.name] = Network.maxima(node, shapes[0], inputs[0]);
      else if (node.op === "neuron") {
        const step = Network.spread(node.factor, node.shape);
        values[node.name] = Int32Array.from(inputs[0], (z, i) =>
          Math.min(Math.max(Math.floor((2 * z + step(i)) / (2 * step(i))), node.lowest), node.levels));
      } else values[node.name] = Network.linear(node, shapes, inputs, true);
    }
    return values;
  },

  depths(program) {
    const depth = {};
    for (const node of program.nodes)
      depth[node.name] = Math.max(0, ...node.inputs.map((name) => depth[name])) + (node.op === "neuron" ? 1 : 0);
    return depth;
  },

  // What a spike of halving is worth in step `now`: the largest power of two up to L, then half, ..., 1.
  worth: (levels, now) => Math.max(1, 2 ** (Math.floor(Math.log2(levels)) - now)),
};

// A run of a program on an image (pixels, row by row) under a schedule; `step` returns the number of spikes.
class Run {
  constructor(program, schedule, image) {
    Object.assign(this, { program, schedule, image, now: 0, membranes: {}, sent: {}, changes: {}, sums: {}, fired: {} });
    this.depth = Network.depths(program);
    this.answer = new Int32Array(Network.size(program.nodes.find((n) => n.name === program.answer).shape));
    for (const node of program.nodes) {
      const zeros = () => new Int32Array(Network.size(node.shape));
      if (node.op === "neuron") [this.membranes[node.name], this.sent[node.name]] = [zeros(), zeros()];
      if (node.op === "max_pool2d") this.sums[node.name] = [new Int32Array(Network.size(Network.shapes(program, node)[0])), zeros()];
    }
  }

  // [what a spike sends, what it counts, most, least, whether the layer may fire], as exports/c.py has it.
  firing(node) {
    const t = this.now + 1, { levels, lowest } = node;
    if (this.schedule === "streaming") return [levels, 1, t, lowest ? Math.floor(lowest * t / levels) : Infinity, true];
    if (this.schedule === "integrate-then-fire")
      return [1, 1, levels, lowest, Math.floor(this.now / levels) === this.depth[node.name]];
    const worth = this.schedule === "signed" ? 1 : Network.worth(levels, this.now);
    return [worth, worth, levels, lowest, true];
  }

  fire(node, current) {
    const [unit, worth, most, least, may] = this.firing(node), step = Network.spread(node.factor, node.shape);
    const membrane = this.membranes[node.name], sent = this.sent[node.name];
    const spikes = new Int8Array(membrane.length), change = new Int32Array(membrane.length);
    for (let i = 0; i < membrane.length; i++) {
      membrane[i] += current[i];
      if (!may) continue;
      const from = unit * step(i);
      if (2 * membrane[i] >= from && sent[i] + worth <= most) spikes[i] = 1;
      else if (2 * membrane[i] < -from && sent[i] - worth >= least) spikes[i] = -1;
      sent[i] += worth * spikes[i];
      change[i] = unit * spikes[i];
      membrane[i] -= from * spikes[i];
    }
    this.fired[node.name] = spikes;
    return change;
  }

  step() {
    const due = this.schedule === "streaming" || this.now === 0;
    for (const node of this.program.nodes) {
      const inputs = node.inputs.map((name) => this.changes[name]), shapes = Network.shapes(this.program, node);
      let change;
      if (node.op === "image") {
        change = Network.pixels(node, this.image);
        if (!due) change.fill(0);
      } else if (node.op === "neuron") change = this.fire(node, inputs[0]);
      else if (node.op === "max_pool2d") {
        const [sum, before] = this.sums[node.name];
        inputs[0].forEach((value, i) => { sum[i] += value; });
        const after = Network.maxima(node, shapes[0], sum);
        change = after.map((value, i) => value - before[i]);
        before.set(after);
      } else change = Network.linear(node, shapes, inputs, due);
      this.changes[node.name] = change;
    }
    this.changes[this.program.answer].forEach((value, i) => { this.answer[i] += value; });
    this.now++;
    return Object.values(this.fired).reduce((sum, spikes) => sum + spikes.reduce((a, s) => a + (s ? 1 : 0), 0), 0);
  }
}

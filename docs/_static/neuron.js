// The neuron's arithmetic, as in reference/neuron.py and reference/activation.py; tested against them (test_play.py).
"use strict";
const Neuron = {
  level(z, theta, L, phi) {
    return Math.min(Math.max(Math.floor(z * L / theta + phi), 0), L);
  },
  // T currents with mean z: "constant", or uneven by `spread`, falling ("early") or rising ("late") or back and forth.
  currents(z, T, order, spread) {
    const out = [];
    for (let t = 0; t < T; t++) {
      const side = T === 1 ? 0 : (2 * t) / (T - 1) - 1; // -1 .. 1, sum 0
      const swing = T % 2 && t === T - 1 ? 0 : (t % 2 ? -1 : 1);
      const shape = { constant: 0, early: -side, late: side, alternating: swing }[order];
      out.push(z + spread * shape);
    }
    return out;
  },
  // {spikes, membranes: [before, after the spike] of each step, count}
  streaming(currents, theta, v0) {
    let v = v0, count = 0;
    const spikes = [], membranes = [];
    for (const z of currents) {
      v = v + z;
      const s = v >= theta ? 1 : 0, before = v;
      v = v - theta * s;
      spikes.push(s);
      membranes.push([before, v]);
      count += s;
    }
    return { spikes, membranes, count };
  },
  integrateThenFire(currents, theta, v0) {
    let v = v0;
    const filling = currents.map((z) => { v = v + z; return [v, v]; });
    const fired = Neuron.streaming(currents.map(() => 0), theta, v);
    return {
      spikes: [...currents.map(() => 0), ...fired.spikes],
      membranes: [...filling, ...fired.membranes],
      count: fired.count,
    };
  },
  // Takes the sum over T currents as T times the mean that the level is of.
  signed(currents, theta, L, phi) {
    const value = theta / L;
    let v = phi * value, sent = 0;
    const spikes = [], membranes = [], T = currents.length;
    for (let t = 0; t < T + L; t++) {
      v = v + (t < T ? currents[t] / T : 0);
      const before = v, s = v >= value && sent < L ? 1 : v < 0 && sent > 0 ? -1 : 0;
      v = v - value * s;
      sent += s;
      spikes.push(s);
      membranes.push([before, v]);
    }
    return { spikes, membranes, count: sent };
  },
};

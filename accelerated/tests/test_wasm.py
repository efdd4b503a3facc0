"""The C file as WebAssembly, by clang's own code: V8 gives the package's spikes and levels, step by step."""

import base64
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import accelerated as acc
from accelerated import data as datasets
from accelerated.exports.c import c
from accelerated.runs import receipts

py_mini_racer = pytest.importorskip("py_mini_racer", reason="V8 runs the module: pip install mini-racer")
if importlib.util.find_spec("ziglang") is None:
    pytest.skip("clang with WebAssembly is not installed: pip install ziglang", allow_module_level=True)

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
BARE = ("-target", "wasm32-freestanding", "-nostdlib", "-fno-builtin", "-Wl,--no-entry")  # no C library at all
EXPORTS = ("pixels", "reset", "step", "sent", "size")
STRING = "#include <stddef.h>\nvoid *memset(void *where, int value, size_t count);\n"
PAGE = """
#include <stddef.h>
#include "network.h"

static network_state state;
static uint8_t image[NETWORK_PIXELS];

void *memset(void *where, int value, size_t count) {
    unsigned char *each = where;
    while (count--) *each++ = (unsigned char)value;
    return where;
}
uint8_t *pixels(void) { return image; }
void reset(void) { network_reset(&state, image); }
int32_t step(void) { return network_step(&state); }
int32_t size(int32_t layer) { return network_size(layer); }
int32_t sent(int32_t layer, int32_t i) { return network_sent(&state, layer, i); }
"""
RUN = """
const bytes = Uint8Array.from(atob64(MODULE));
const network = new WebAssembly.Instance(new WebAssembly.Module(bytes), {}).exports;
function atob64(text) {
    const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", found = [];
    let held = 0, bits = 0;
    for (const letter of text.replace(/=/g, "")) {
        held = ((held << 6) | letters.indexOf(letter)) & 0xffff;
        bits += 6;
        if (bits >= 8) { bits -= 8; found.push((held >> bits) & 255); }
    }
    return found;
}
function run(image, steps, layers) {
    new Uint8Array(network.memory.buffer).set(image, network.pixels());
    network.reset();
    const fired = [], sent = [];
    for (let t = 0; t < steps; t++) fired.push(network.step());
    for (let k = 0; k < layers; k++) for (let i = 0; i < network.size(k); i++) sent.push(network.sent(k, i));
    return JSON.stringify([fired, sent]);
}
"""


def module(network, image, folder):
    """The bytes of the WebAssembly module of a spiking network."""
    c(network, folder / "network.c", image)
    (folder / "string.h").write_text(STRING)
    (folder / "page.c").write_text(PAGE)
    exports = "-Wl," + ",".join(f"--export={name}" for name in EXPORTS)
    command = [sys.executable, "-m", "ziglang", "cc", *STRICT, *BARE, "-I.", "network.c", "page.c", exports]
    done = subprocess.run([*command, "-o", "network.wasm"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "network.wasm").read_bytes()


@pytest.mark.parametrize("schedule", ["streaming", "integrate-then-fire", "signed", "halving"])
def test_digits_as_webassembly(schedule, tmp_path):
    network, x = acc.load("digits"), datasets.load("digits").test_x[:60]
    spiking = acc.convert(network, schedule)
    code, steps = module(spiking, x[:1], tmp_path), spiking.phases * spiking.steps
    assert len(code) < 50_000
    engine = py_mini_racer.MiniRacer()
    engine.eval(RUN.replace("MODULE", json.dumps(base64.b64encode(code).decode())))
    result = acc.simulate(spiking, x, spiking.steps)
    wanted = np.concatenate([count.flatten(1).numpy() for count in result.counts.values()], 1)
    emitted = sum(spikes.flatten(1).sum(1) for spikes in result.emitted.values()).numpy()
    for row, image in enumerate(receipts.pixels_of(network, x).flatten(1).int().tolist()):
        fired, sent = json.loads(engine.eval(f"run({image}, {steps}, {len(result.counts)})"))
        assert sum(fired) == emitted[row], row
        assert (np.array(sent) == wanted[row]).all(), row
    assert (wanted != 0).mean() > 0.2

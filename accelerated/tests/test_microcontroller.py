"""The C file on a bare microcontroller: a Cortex-M3 without an operating system, in 64 KB of flash and 16 KB of RAM.

QEMU simulates the board mps2-an385 and counts instructions, one nanosecond each; its 25 MHz timer says how many. The
linker refuses what does not fit.
"""

import importlib.util
import shutil
import subprocess
import sys

import pytest

import accelerated as acc
from accelerated import data as datasets
from accelerated.exports.c import c
from accelerated.runs import receipts

from .test_wasm import STRING

SIMULATOR = shutil.which("qemu-system-arm")
pytestmark = [
    pytest.mark.skipif(SIMULATOR is None, reason="no simulator of a microcontroller is installed: qemu-system-arm"),
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no compiler for it: pip install ziglang"),
]
IMAGES, PER_TICK = 20, 40  # instructions in a tick of the timer
BARE = ("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m3", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O2",
        "-ffreestanding", "-nostdlib", "-fno-builtin", "-I.", "-T", "board.ld", "-Wl,--entry=start")  # fmt: skip
BOARD = ("-M", "mps2-an385", "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0",
         "-semihosting-config", "enable=on,target=native", "-kernel", "board.elf")  # fmt: skip
LINKER = """
MEMORY { FLASH (rx) : ORIGIN = 0, LENGTH = 64K  RAM (rw) : ORIGIN = 0x20000000, LENGTH = 16K }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > FLASH
  .ARM.exidx : { *(.ARM.exidx*) } > FLASH
  .bss (NOLOAD) : { *(.bss*) *(COMMON) } > RAM
}
top = ORIGIN(RAM) + LENGTH(RAM); /* of the stack, which has what the state leaves */
"""
MAIN = """
#include <stddef.h>
#include "network.h"

static const uint8_t images[][NETWORK_PIXELS] = {IMAGES};
static network_state state;
extern unsigned char top;

void *memset(void *where, int value, size_t count) {
    unsigned char *each = where;
    while (count--) *each++ = (unsigned char)value;
    return where;
}

static void host(uint32_t operation, const void *argument) { /* what the simulator does for the program */
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static void put(uint32_t value) {
    char text[12], *each = text + sizeof text;
    *--each = 0;
    *--each = ' ';
    do *--each = (char)('0' + value % 10);
    while (value /= 10);
    host(4, each);
}

#define TIMER ((volatile uint32_t *)0xE000E010)

void start(void) {
    for (uint32_t n = 0; n < sizeof images / sizeof *images; n++) {
        int32_t spikes = 0;
        TIMER[1] = 0xFFFFFF;
        TIMER[2] = 0;
        TIMER[0] = 5;
        network_reset(&state, images[n]);
        for (int32_t t = 0; t < NETWORK_STEPS; t++) {
            const int32_t fired = network_step(&state);
            spikes += fired;
            if (fired == 0 && t >= NETWORK_COARSE) break; /* the answer is exact */
        }
        const int32_t answer = network_answer(&state);
        const uint32_t ticks = 0xFFFFFF - TIMER[2];
        put((uint32_t)answer);
        put((uint32_t)spikes);
        put(ticks);
        host(4, "\\n");
    }
    host(0x18, (const void *)0x20026);
    for (;;) {}
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {(void (*)(void))&top, start};
"""


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed", "halving"])
def test_digits_on_a_microcontroller(schedule, tmp_path, record_property):
    network, x = acc.load("digits"), datasets.load("digits").test_x[:IMAGES]
    spiking = acc.convert(network, schedule)
    c(spiking, tmp_path / "network.c", x[:1])
    rows = receipts.pixels_of(network, x).flatten(1).int().tolist()
    (tmp_path / "main.c").write_text(MAIN.replace("{IMAGES}", str(rows).replace("[", "{").replace("]", "}")))
    (tmp_path / "string.h").write_text(STRING)
    (tmp_path / "board.ld").write_text(LINKER)
    command = [sys.executable, "-m", "ziglang", "cc", *BARE, "network.c", "main.c", "-o", "board.elf"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([str(SIMULATOR), *BOARD], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    found = [[int(text) for text in line.split()] for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    result = acc.simulate(spiking, x, spiking.steps)
    emitted = sum(spikes.flatten(1).sum(1) for spikes in result.emitted.values()).tolist()
    assert [row[0] for row in found] == result.logits[-1].argmax(1).tolist()
    assert [row[1] for row in found] == emitted
    mean = sum(row[2] for row in found) * PER_TICK / IMAGES
    record_property("seen", f"digits on a Cortex-M3, {schedule}: {mean / 1e6:.1f} million instructions an image")

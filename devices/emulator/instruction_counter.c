/*
 * A plugin for QEMU's user mode that counts executed AArch64 instructions between two markers.
 *
 * A marker is a system call that no kernel has, 0x7ed6: argument 1 sets the counts to zero,
 * argument 2 appends them to a file as one line of JSON. devices/harness/markers.py makes them.
 *
 *   cc -O2 -shared -fPIC instruction_counter.c -o libinstructions.so
 *   qemu-aarch64 -cpu cortex-a72 -plugin ./libinstructions.so,out=counts.jsonl -L ROOT PROGRAM
 *
 * A plugin runs inside QEMU, which is under the GNU General Public License, version 2. This file
 * is therefore a development tool of its own, under GPL-2.0-or-later, and no part of edgeprune.
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The declarations are our own, of the few functions that are used, so that no header of QEMU is
 * needed. Tried with QEMU 7.2 (plugin interface 1). Give -DPLUGIN_INTERFACE=3 or higher for
 * versions of QEMU that refuse 1.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_INTERFACE
#define PLUGIN_INTERFACE 1
#endif

typedef uint64_t plugin_t;
struct block;
struct instruction;

extern size_t qemu_plugin_tb_n_insns(const struct block *block);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *block, size_t index);
extern void qemu_plugin_register_vcpu_tb_trans_cb(
    plugin_t plugin, void (*translated)(plugin_t plugin, struct block *block));
extern void qemu_plugin_register_vcpu_tb_exec_cb(
    struct block *block, void (*executed)(unsigned core, void *data), int flags, void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(
    plugin_t plugin, void (*called)(plugin_t plugin, unsigned core, int64_t number, uint64_t a1,
                                    uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                                    uint64_t a7, uint64_t a8));
#if PLUGIN_INTERFACE >= 3
extern size_t qemu_plugin_insn_data(const struct instruction *insn, void *to, size_t length);
#else
extern const void *qemu_plugin_insn_data(const struct instruction *insn);
#endif

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = PLUGIN_INTERFACE;

enum { MARKER = 0x7ed6, START = 1, STOP = 2 };
enum kind { LOADS_AND_STORES, VECTOR, BRANCHES, INTEGER, KINDS };
static const char *const names[KINDS] = {"loads_and_stores", "vector", "branches", "integer"};

struct counts {
    uint64_t of[KINDS];
};
static struct counts total;
static char path[4096];

/* The top level of the encoding, bits 28 to 25: Arm Architecture Reference Manual, A64, C4.1. */
static enum kind classify(uint32_t word)
{
    unsigned group = word >> 25 & 15;
    if ((group & 5) == 4)
        return LOADS_AND_STORES;
    if ((group & 7) == 7)
        return VECTOR;
    if ((group & 14) == 10)
        return BRANCHES;
    return INTEGER;
}

static uint32_t read_word(const struct instruction *insn)
{
    uint32_t word = 0;
#if PLUGIN_INTERFACE >= 3
    qemu_plugin_insn_data(insn, &word, sizeof word);
#else
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
#endif
    return word;
}

/* The counts of a block are packed into the pointer that goes along: nothing to be freed. */
static void executed(unsigned core, void *data)
{
    uint64_t packed = (uint64_t)(uintptr_t)data;
    (void)core;
    for (int kind = 0; kind < KINDS; kind++)
        total.of[kind] += packed >> 16 * kind & 0xffff;
}

static void translated(plugin_t plugin, struct block *block)
{
    uint64_t packed = 0;
    size_t length = qemu_plugin_tb_n_insns(block); /* at most 512 in QEMU: 16 bits are enough */
    (void)plugin;
    for (size_t i = 0; i < length; i++)
        packed += UINT64_C(1) << 16 * classify(read_word(qemu_plugin_tb_get_insn(block, i)));
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)packed);
}

static void write_counts(void)
{
    uint64_t all = 0;
    FILE *file = fopen(path, "a");
    if (!file)
        return;
    fputc('{', file);
    for (int kind = 0; kind < KINDS; kind++) {
        all += total.of[kind];
        fprintf(file, "\"%s\": %" PRIu64 ", ", names[kind], total.of[kind]);
    }
    fprintf(file, "\"total\": %" PRIu64 "}\n", all);
    fclose(file);
}

static void called(plugin_t plugin, unsigned core, int64_t number, uint64_t a1, uint64_t a2,
                   uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)plugin, (void)core, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARKER)
        return;
    if (a1 == START)
        memset(&total, 0, sizeof total);
    else if (a1 == STOP)
        write_counts();
}

EXPORTED int qemu_plugin_install(plugin_t plugin, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0)
            snprintf(path, sizeof path, "%s", argv[i] + 4);
    if (!path[0]) {
        fputs("instruction_counter: say where to: out=FILE\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
    qemu_plugin_register_vcpu_syscall_cb(plugin, called);
    return 0;
}

/* A stand-in for libedgetpu, for tests: it takes the operators that edgetpu_compiler makes, and
 * answers with what the same model answers on a CPU, which it reads from a file. It computes
 * nothing, so its milliseconds mean nothing; its version says what it is.
 *
 * STAND_IN_ANSWERS is the file: per answer, little endian, the CRC-32 of the operator's data and of
 * its inputs (4 bytes), the size of its outputs (4 bytes), and the outputs.
 * STAND_IN_FAILS says how it fails: no-device, crash, refuses, version, or lost:N after N answers.
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is needed of the runtime's own header, tensorflow/lite/core/c/common.h, whose fields are
 * never moved. */
typedef enum { OK = 0, FAILED = 1 } Status;
enum { READ_ONLY = 1 };
typedef struct { int size; int data[]; } IntArray;
typedef struct Delegate Delegate;

typedef struct {
    int type;
    void *data;
    IntArray *dims;
    struct { float scale; int32_t zero_point; } params;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    Delegate *delegate;
    int buffer_handle;
    bool data_is_stale, is_variable;
    struct { int type; void *params; } quantization;
    void *sparsity;
    const IntArray *dims_signature;
} Tensor;

typedef struct {
    IntArray *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
    Delegate *delegate;
    bool might_have_side_effect;
} Node;

typedef struct Context Context;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    Status (*prepare)(Context *, Node *);
    Status (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external, *async_kernel;
    uint64_t inplace_operator;
} Registration;

struct Context {
    size_t tensors_size;
    Status (*GetExecutionPlan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl;
    Status (*ResizeTensor)(Context *, Tensor *, IntArray *);
    void (*ReportError)(Context *, const char *, ...);
    Status (*AddTensors)(Context *, int, int *);
    Status (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
    Status (*ReplaceNodeSubsetsWithDelegateKernels)(
        Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
    void *data;
    Status (*Prepare)(Context *, Delegate *);
    void *copy_from, *copy_to, *free_handle;
    int64_t flags;
    void *opaque_delegate_builder;
};

typedef struct {
    Delegate *delegate;
    IntArray *nodes, *inputs, *outputs;
} Params;

typedef struct {
    uint32_t crc; /* of the data of the operators */
    const IntArray *inputs, *outputs;
} Kernel;

static const char *const OPERATOR = "edgetpu-custom-op";
static long answered = 0;

static bool fails(const char *how)
{
    const char *wanted = getenv("STAND_IN_FAILS");
    return wanted != NULL && strcmp(wanted, how) == 0;
}

static uint32_t crc32(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0xEDB88320u & -(crc & 1));
        }
    }
    return ~crc;
}

static void *begin(Context *context, const char *buffer, size_t length)
{
    const Params *params = (const Params *)buffer;
    Kernel *kernel = malloc(sizeof *kernel);
    (void)length;
    kernel->crc = 0;
    kernel->inputs = params->inputs;
    kernel->outputs = params->outputs;
    for (int i = 0; i < params->nodes->size; i++) {
        Node *node;
        Registration *registration;
        context->GetNodeAndRegistration(context, params->nodes->data[i], &node, &registration);
        kernel->crc =
            crc32(kernel->crc, node->custom_initial_data, node->custom_initial_data_size);
    }
    return kernel;
}

static void end(Context *context, void *kernel)
{
    (void)context;
    free(kernel);
}

static Status prepare(Context *context, Node *node)
{
    (void)node;
    if (fails("version")) {
        context->ReportError(context,
            "Failed precondition: Package requires runtime version (14), which is newer than this "
            "runtime version (13).");
        return FAILED;
    }
    return OK;
}

/* Copy the answer for a key into the outputs; false where the file has none. */
static bool look_up(Context *context, const Kernel *kernel, uint32_t key, size_t size)
{
    const char *path = getenv("STAND_IN_ANSWERS");
    FILE *file = path == NULL ? NULL : fopen(path, "rb");
    uint32_t head[2];
    bool found = false;
    while (file != NULL && !found && fread(head, sizeof head, 1, file) == 1) {
        if (head[0] != key || head[1] != size) {
            fseek(file, head[1], SEEK_CUR);
            continue;
        }
        found = true;
        for (int i = 0; i < kernel->outputs->size; i++) {
            Tensor *tensor = &context->tensors[kernel->outputs->data[i]];
            found = found && fread(tensor->data, tensor->bytes, 1, file) == 1;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

static Status answer(Context *context, Node *node)
{
    const Kernel *kernel = node->user_data;
    const char *wanted = getenv("STAND_IN_FAILS");
    uint32_t key = kernel->crc;
    size_t size = 0;
    if (wanted != NULL && strncmp(wanted, "lost:", 5) == 0 && answered >= atol(wanted + 5)) {
        context->ReportError(context, "Failed to execute request: USB transfer error 5.");
        return FAILED;
    }
    answered++;
    for (int i = 0; i < kernel->inputs->size; i++) {
        const Tensor *tensor = &context->tensors[kernel->inputs->data[i]];
        if (tensor->allocation_type != READ_ONLY) {
            key = crc32(key, tensor->data, tensor->bytes);
        }
    }
    for (int i = 0; i < kernel->outputs->size; i++) {
        size += context->tensors[kernel->outputs->data[i]].bytes;
    }
    if (!look_up(context, kernel, key, size)) {
        context->ReportError(context, "the stand-in has no answer for these inputs");
        return FAILED;
    }
    return OK;
}

static Status take_operators(Context *context, Delegate *delegate)
{
    Registration kernel = {0};
    IntArray *plan, *taken;
    Status status = OK;
    kernel.init = begin;
    kernel.free = end;
    kernel.prepare = prepare;
    kernel.invoke = answer;
    kernel.custom_name = "EdgeTpuDelegateForCustomOp";
    kernel.version = 1;
    if (fails("refuses") || context->GetExecutionPlan(context, &plan) != OK) {
        return OK;
    }
    taken = malloc(sizeof *taken + plan->size * sizeof(int));
    taken->size = 0;
    for (int i = 0; i < plan->size; i++) {
        Node *node;
        Registration *registration;
        context->GetNodeAndRegistration(context, plan->data[i], &node, &registration);
        if (registration->custom_name && strcmp(registration->custom_name, OPERATOR) == 0) {
            taken->data[taken->size++] = plan->data[i];
        }
    }
    if (taken->size > 0) {
        status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, taken, delegate);
    }
    free(taken);
    return status;
}

const char *edgetpu_version(void)
{
    return "stand-in, no Edge TPU";
}

Delegate *tflite_plugin_create_delegate(
    char **keys, char **values, size_t count, void (*report_error)(const char *))
{
    Delegate *delegate;
    (void)report_error; /* libedgetpu says nothing where it finds no device */
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i], "device") == 0 && strncmp("usb:0", values[i], strlen(values[i]))) {
            return NULL; /* it has one, usb:0 */
        }
    }
    if (fails("no-device")) {
        return NULL;
    }
    if (fails("crash")) {
        raise(SIGSEGV);
    }
    delegate = calloc(1, sizeof *delegate);
    delegate->Prepare = take_operators;
    delegate->flags = 1; /* as libedgetpu: else operators are prepared before they are taken */
    return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate)
{
    free(delegate);
}

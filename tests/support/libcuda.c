/* A driver with one small GPU, a Jetson Orin Nano: the functions that hasn_edge.engine calls, with NVIDIA's
   signatures. FAKE_CUDA_DEVICES, FAKE_CUDA_BYTES (memory left) and FAKE_CUDA_BUS (its place; "" for none) change
   what it has. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int initialized, retained;
static void *current;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { initialized = 1; return flags ? 1 : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = number("FAKE_CUDA_DEVICES", 1); return initialized ? 0 : 3; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return initialized ? 0 : 3; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Orin"); return device == 40 ? 0 : 101; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 7990000000ull; return device == 40 ? 0 : 101; }

int cuDeviceGetPCIBusId(char *id, int size, int device) {
    const char *place = getenv("FAKE_CUDA_BUS");
    int written = snprintf(id, size, "%s", place ? place : "0000:3B:00.0");
    return device == 40 && written > 0 && written < size ? 0 : 101;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int known[][2] = {{16, 8}, {18, 1}, {75, 8}, {76, 7}};
    for (int i = 0; i < 4; i++)
        if (known[i][0] == attribute) { *value = known[i][1]; return device == 40 ? 0 : 101; }
    return 1;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    retained = 1;
    *context = (void *)0x1234;
    return initialized && device == 40 ? 0 : 101;
}

int cuCtxSetCurrent(void *context) { current = context; return retained && context == (void *)0x1234 ? 0 : 201; }

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!current) return 201;
    if (bytes > (size_t)number("FAKE_CUDA_BYTES", 1 << 24)) return 2;
    *address = (uint64_t)(uintptr_t)malloc(bytes);
    return 0;
}

int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); return current ? 0 : 201; }

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    if (!current) return 201;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return 0;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *free_bytes = (size_t)number("FAKE_CUDA_BYTES", 1 << 24);
    *total = 7990000000ull;
    return current ? 0 : 201;
}

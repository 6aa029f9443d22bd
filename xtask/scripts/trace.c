// Writes each kernel, copy and fill of a process with its times to $TRACE.<process>, one a line. NVIDIA's driver loads this library into every
// process that uses CUDA if CUDA_INJECTION64_PATH names it. The times are CUPTI's, so a kernel does not wait for the one before.
#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static FILE *file;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *records) {
    *size = 8u << 20;
    *buffer = aligned_alloc(8, *size);
    *records = 0;
}

static void CUPTIAPI write_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)context, (void)stream, (void)size;
    CUpti_Activity *record = NULL;
    pthread_mutex_lock(&lock);
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const CUpti_ActivityKernel9 *kernel = (void *)record;
            fprintf(file, "%llu %llu grid=%d,%d,%d registers=%u %s\n", (unsigned long long)kernel->start,
                    (unsigned long long)kernel->end, kernel->gridX, kernel->gridY, kernel->gridZ, kernel->registersPerThread,
                    kernel->name ? kernel->name : "?");
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy5 *copy = (void *)record;
            fprintf(file, "%llu %llu - - copy\n", (unsigned long long)copy->start, (unsigned long long)copy->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            const CUpti_ActivityMemset4 *fill = (void *)record;
            fprintf(file, "%llu %llu - - fill\n", (unsigned long long)fill->start, (unsigned long long)fill->end);
        }
    }
    pthread_mutex_unlock(&lock);
    free(buffer);
}

static void finish(void) {
    cuptiActivityFlushAll(1);
    fclose(file);
}

// The driver calls this.
int InitializeInjection(void) {
    char path[4096];
    const char *start = getenv("TRACE");
    snprintf(path, sizeof path, "%s.%d", start ? start : "trace", (int)getpid());
    file = fopen(path, "w");
    if (!file)
        return 0;
    CUptiResult status = cuptiActivityRegisterCallbacks(give_buffer, write_buffer);
    status = status ? status : cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    status = status ? status : cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    status = status ? status : cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
    if (status)
        fprintf(stderr, "trace: CUPTI answers %d\n", (int)status);
    atexit(finish);
    return 1;
}

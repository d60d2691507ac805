/* Memory that runs out: preloaded, it lets one allocation after another fail, of all that a process makes
   between arm() and disarm(). On glibc, whose own functions have second names. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static atomic_long left, made;
static atomic_int armed, failed;

/* The allocation of this number fails, counted from 1; none with 0. */
void arm(long number) {
    atomic_store(&left, number);
    atomic_store(&made, 0);
    atomic_store(&failed, 0);
    atomic_store(&armed, 1);
}

void disarm(void) { atomic_store(&armed, 0); }

long allocations(void) { return atomic_load(&made); }

int has_failed(void) { return atomic_load(&failed); }

static int fails(void) {
    if (!atomic_load(&armed))
        return 0;
    atomic_fetch_add(&made, 1);
    if (atomic_fetch_sub(&left, 1) != 1)
        return 0;
    atomic_store(&failed, 1);
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }

void *realloc(void *memory, size_t size) { return fails() ? NULL : __libc_realloc(memory, size); }

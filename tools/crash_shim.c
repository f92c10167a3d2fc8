/* Counts the file calls of this process below a folder, and lets one of them fail or kill the process.
   Loaded with LD_PRELOAD by crash_recovery.py, which arms it in each child through crash_arm. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define FDS 4096
static atomic_long *counter; /* in memory shared with the parent */
static long at;              /* the call that fails; 0: none */
static int error, sticky;    /* its errno, 0 to kill; whether all later calls fail, too */
static char folder[4096];
static unsigned char inside[FDS];

void crash_arm(void *shared, const char *path, long call, int number, int lasting) {
    snprintf(folder, sizeof folder, "%s", path);
    at = call, error = number, sticky = lasting;
    counter = shared;
}

/* Returns 1 with errno set if this call is to fail. */
static int hit(void) {
    long number = atomic_fetch_add(counter, 1) + 1;
    if (!at || number < at || (number > at && !sticky)) return 0;
    if (!error) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = error;
    return 1;
}

static int path_counts(int dir, const char *path) {
    if (!counter || !path) return 0;
    if (path[0] != '/') return dir >= 0 && dir < FDS && inside[dir];
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fd_counts(int fd) { return counter && fd >= 0 && fd < FDS && inside[fd]; }

static int mark(int fd, int counts) {
    if (fd >= 0 && fd < FDS) inside[fd] = counts;
    return fd;
}

#define REAL(type, name, ...)                             \
    static type (*real)(__VA_ARGS__);                     \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name, ...)                                   \
    int name(const char *path, int flags, ...) {          \
        va_list list;                                     \
        va_start(list, flags);                            \
        int mode = va_arg(list, int);                     \
        va_end(list);                                     \
        REAL(int, #name, const char *, int, ...);         \
        int counts = path_counts(-1, path);               \
        if (counts && hit()) return -1;                   \
        return mark(real(path, flags, mode), counts);     \
    }
#define OPENAT(name)                                      \
    int name(int dir, const char *path, int flags, ...) { \
        va_list list;                                     \
        va_start(list, flags);                            \
        int mode = va_arg(list, int);                     \
        va_end(list);                                     \
        REAL(int, #name, int, const char *, int, ...);    \
        int counts = path_counts(dir, path);              \
        if (counts && hit()) return -1;                   \
        return mark(real(dir, path, flags, mode), counts);\
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                       \
    FILE *name(const char *path, const char *how) {       \
        REAL(FILE *, #name, const char *, const char *);  \
        int counts = path_counts(-1, path);               \
        if (counts && hit()) return NULL;                 \
        FILE *file = real(path, how);                     \
        if (file) mark(fileno(file), counts);             \
        return file;                                      \
    }
FOPEN(fopen)
FOPEN(fopen64)

int close(int fd) {
    REAL(int, "close", int);
    mark(fd, 0);
    return real(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return fd_counts(fd) && hit() ? -1 : real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fd_counts(fd) && hit() ? -1 : real(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return fd_counts(fd) && hit() ? -1 : real(fd, data, size, offset);
}
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    return fd_counts(fileno(file)) && hit() ? 0 : real(data, size, count, file);
}

#define ON_FD(name)                                       \
    int name(int fd) {                                    \
        REAL(int, #name, int);                            \
        return fd_counts(fd) && hit() ? -1 : real(fd);    \
    }
ON_FD(fsync)
ON_FD(fdatasync)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return path_counts(-1, to) && hit() ? -1 : real(from, to);
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return path_counts(to_dir, to) && hit() ? -1 : real(from_dir, from, to_dir, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return path_counts(-1, path) && hit() ? -1 : real(path, mode);
}

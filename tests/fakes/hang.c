/* A file system that hangs: with this library preloaded, every call that asks for something at or
   below $HANG_BELOW waits while the file $HANG_FLAG exists, and $HANG_SECONDS at the most. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static void wait_at(const char *path)
{
    const char *below = getenv("HANG_BELOW"), *flag = getenv("HANG_FLAG");
    const char *seconds = getenv("HANG_SECONDS");
    if (!path || !below || !flag || strncmp(path, below, strlen(below)) != 0)
        return;
    char after = path[strlen(below)];
    if (after && after != '/')
        return;
    double left = seconds ? atof(seconds) : 1e9;
    struct timespec step = {0, 10000000};
    for (; left > 0 && access(flag, F_OK) == 0; left -= 0.01)
        nanosleep(&step, NULL);
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

int stat(const char *path, struct stat *out) { wait_at(path); return REAL(stat)(path, out); }
int lstat(const char *path, struct stat *out) { wait_at(path); return REAL(lstat)(path, out); }
int stat64(const char *path, struct stat64 *out) { wait_at(path); return REAL(stat64)(path, out); }
int lstat64(const char *path, struct stat64 *out) { wait_at(path); return REAL(lstat64)(path, out); }
int fstatat(int at, const char *path, struct stat *out, int flags)
{ wait_at(path); return REAL(fstatat)(at, path, out, flags); }
int fstatat64(int at, const char *path, struct stat64 *out, int flags)
{ wait_at(path); return REAL(fstatat64)(at, path, out, flags); }
int statx(int at, const char *path, int flags, unsigned mask, struct statx *out)
{ wait_at(path); return REAL(statx)(at, path, flags, mask, out); }
int statvfs(const char *path, struct statvfs *out)
{ wait_at(path); return REAL(statvfs)(path, out); }
int statvfs64(const char *path, struct statvfs64 *out)
{ wait_at(path); return REAL(statvfs64)(path, out); }
int mkdir(const char *path, mode_t mode) { wait_at(path); return REAL(mkdir)(path, mode); }
int unlink(const char *path) { wait_at(path); return REAL(unlink)(path); }
DIR *opendir(const char *path) { wait_at(path); return REAL(opendir)(path); }
ssize_t readlink(const char *path, char *out, size_t size)
{ wait_at(path); return REAL(readlink)(path, out, size); }

#define MODE(flags) mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...)
{ MODE(flags) wait_at(path); return REAL(open)(path, flags, mode); }
int open64(const char *path, int flags, ...)
{ MODE(flags) wait_at(path); return REAL(open64)(path, flags, mode); }
int openat(int at, const char *path, int flags, ...)
{ MODE(flags) wait_at(path); return REAL(openat)(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...)
{ MODE(flags) wait_at(path); return REAL(openat64)(at, path, flags, mode); }

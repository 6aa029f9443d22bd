// A library to preload. At one call that changes a file, it kills the process or makes the call fail.
//
// KILL_BELOW  calls on files below this folder count; ends with a slash
// KILL_AT     the number of the call to fail, from 1; unset for none
// KILL_MODE   kill; enospc (this call and all later ones that need space fail); eio (this one fails)
// KILL_LOG    a file that gets a line for each call: its number, its name, its path
// KILL_ONLY, KILL_NOT  words that the command line must or must not contain for calls to count
//
// The library sees only calls through the C library. A rename without it (by the crate rustix) is between two visible calls.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NEEDS_SPACE = 1 };

static const char *below, *log_file;
static long at, calls;
static int fails_with, from_then_on;

__attribute__((constructor)) static void start(void) {
  static char line[4096];
  const char *only = getenv("KILL_ONLY"), *not = getenv("KILL_NOT"), *mode = getenv("KILL_MODE"), *number = getenv("KILL_AT");
  long file = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY, 0);
  long length = syscall(SYS_read, file, line, sizeof line - 1);
  syscall(SYS_close, file);
  for (long i = 0; i < length; i++)
    if (!line[i]) line[i] = ' ';
  if ((only && !strstr(line, only)) || (not && strstr(line, not))) return;
  below = getenv("KILL_BELOW");
  log_file = getenv("KILL_LOG");
  at = number ? atol(number) : 0;
  if (mode && !strcmp(mode, "enospc")) fails_with = ENOSPC, from_then_on = 1;
  if (mode && !strcmp(mode, "eio")) fails_with = EIO;
}

// The path of a file by its name below an open folder, or of an open file.
static const char *of(int folder, const char *name, char *path) {
  char link[64];
  if (name && (name[0] == '/' || folder == AT_FDCWD)) return name;
  snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t length = readlink(link, path, 4000);
  if (length < 0) return 0;
  path[length] = 0;
  if (name) snprintf(path + length, 8000 - length, "/%s", name);
  return path;
}

// Returns true if the call must fail, and sets errno.
static int strikes(const char *call, const char *path, int needs_space) {
  if (!below || !path || strncmp(path, below, strlen(below))) return 0;
  long number = __sync_add_and_fetch(&calls, 1);
  if (log_file) {
    char line[8300];
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path + strlen(below));
    long file = syscall(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_APPEND | O_CREAT, 0644);
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
  }
  if (!at || number < at || (number > at && !from_then_on)) return 0;
  if (!fails_with) {
    kill(getpid(), SIGKILL);
    pause();
  }
  if (from_then_on && !needs_space) return 0;
  errno = fails_with;
  return 1;
}

#define NEXT(name) \
  static __typeof__(name) *next; \
  if (!next) next = dlsym(RTLD_NEXT, #name); \
  char path[8000]; \
  (void)path

ssize_t write(int f, const void *b, size_t n) { NEXT(write); return f > 2 && strikes("write", of(f, 0, path), NEEDS_SPACE) ? -1 : next(f, b, n); }
ssize_t writev(int f, const struct iovec *b, int n) { NEXT(writev); return f > 2 && strikes("write", of(f, 0, path), NEEDS_SPACE) ? -1 : next(f, b, n); }
ssize_t pwrite64(int f, const void *b, size_t n, off64_t o) { NEXT(pwrite64); return strikes("write", of(f, 0, path), NEEDS_SPACE) ? -1 : next(f, b, n, o); }
ssize_t copy_file_range(int a, off64_t *i, int b, off64_t *o, size_t n, unsigned g) { NEXT(copy_file_range); return strikes("copy", of(b, 0, path), NEEDS_SPACE) ? -1 : next(a, i, b, o, n, g); }
int fsync(int f) { NEXT(fsync); return strikes("fsync", of(f, 0, path), NEEDS_SPACE) ? -1 : next(f); }
int fdatasync(int f) { NEXT(fdatasync); return strikes("fsync", of(f, 0, path), NEEDS_SPACE) ? -1 : next(f); }
int ftruncate64(int f, off64_t n) { NEXT(ftruncate64); return strikes("truncate", of(f, 0, path), 0) ? -1 : next(f, n); }
int rename(const char *a, const char *b) { NEXT(rename); return strikes("rename", b, 0) ? -1 : next(a, b); }
int renameat(int x, const char *a, int y, const char *b) { NEXT(renameat); return strikes("rename", of(y, b, path), 0) ? -1 : next(x, a, y, b); }
int renameat2(int x, const char *a, int y, const char *b, unsigned g) { NEXT(renameat2); return strikes("rename", of(y, b, path), 0) ? -1 : next(x, a, y, b, g); }
int link(const char *a, const char *b) { NEXT(link); return strikes("link", b, NEEDS_SPACE) ? -1 : next(a, b); }
int mkdir(const char *a, mode_t m) { NEXT(mkdir); return strikes("mkdir", a, NEEDS_SPACE) ? -1 : next(a, m); }
int mkdirat(int x, const char *a, mode_t m) { NEXT(mkdirat); return strikes("mkdir", of(x, a, path), NEEDS_SPACE) ? -1 : next(x, a, m); }
int unlink(const char *a) { NEXT(unlink); return strikes("unlink", a, 0) ? -1 : next(a); }
int rmdir(const char *a) { NEXT(rmdir); return strikes("rmdir", a, 0) ? -1 : next(a); }
int unlinkat(int x, const char *a, int g) { NEXT(unlinkat); return strikes("unlink", of(x, a, path), 0) ? -1 : next(x, a, g); }

#define OPEN(name, declared, folder, ...) \
  int name declared { \
    NEXT(name); \
    va_list rest; \
    va_start(rest, g); \
    mode_t m = va_arg(rest, mode_t); \
    va_end(rest); \
    return (g & (O_CREAT | O_TRUNC)) && strikes("open", of(folder, a, path), NEEDS_SPACE) ? -1 : next(__VA_ARGS__, g, m); \
  }
OPEN(open, (const char *a, int g, ...), AT_FDCWD, a)
OPEN(open64, (const char *a, int g, ...), AT_FDCWD, a)
OPEN(openat, (int x, const char *a, int g, ...), x, x, a)
OPEN(openat64, (int x, const char *a, int g, ...), x, x, a)

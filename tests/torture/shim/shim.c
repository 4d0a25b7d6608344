// failing_calls.py and failing_allocations.py preload this library into isr. It makes the k-th call of some kinds fail.
//
// ISR_TORTURE names a file with the struct Control below. Every process with this library maps it; the test (shim.py)
// writes it. All processes share one count. A call counts when its kind and its process are selected, and its path (or
// the file of its descriptor) lies below one of the folders.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

// In the order of KINDS in shim.py.
enum Kind {
  kOpen,
  kRead,
  kWrite,
  kSync,
  kTruncate,
  kRename,
  kLink,
  kUnlink,
  kMap,
  kSend,
  kThread,
  kAllocate,
  kAccept,
  kKinds
};

struct Control {
  _Atomic uint64_t at;      // 0: nothing fails
  _Atomic uint64_t sticky;  // 1: all calls from the k-th on fail
  _Atomic uint64_t error;
  _Atomic uint64_t kinds;  // a bit for each selected kind
  _Atomic uint64_t hits;
  _Atomic uint64_t daemons_only;
  _Atomic uint64_t counts[kKinds];
  char first_hit[512];
  char folders[2048];  // each ends with a newline
};

static struct Control* control;
static int is_daemon;
static __thread int inside __attribute__((tls_model("initial-exec")));

__attribute__((constructor)) static void begin(void) {
  const char* const path = getenv("ISR_TORTURE");
  if (path == NULL) return;
  const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  char line[4096] = {0};
  const int own = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  const long length = syscall(SYS_read, own, line, sizeof line - 1);
  syscall(SYS_close, own);
  const size_t name = strlen(line);
  is_daemon = length > 0 && strncmp(line + name + 1, "__", 2) == 0;
  void* const map = (void*)syscall(SYS_mmap, NULL, sizeof(struct Control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (map != MAP_FAILED) control = map;
}

static int is_below(const char* path) {
  const char* folder = control->folders;
  while (*folder != 0) {
    const char* const end = strchr(folder, '\n');
    if (end == NULL) return 0;
    const size_t length = (size_t)(end - folder);
    if (strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0)) return 1;
    folder = end + 1;
  }
  return 0;
}

static void path_of(int fd, char* out, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const long length = syscall(SYS_readlink, link, out, size - 1);
  out[length < 0 ? 0 : length] = 0;
}

static int wanted(enum Kind kind) {
  return control != NULL && !inside && (control->kinds >> kind & 1) != 0 && (!control->daemons_only || is_daemon);
}

/// Counts a call. Returns whether it fails; then errno is set.
static int fails(enum Kind kind, const char* call, const char* about) {
  const uint64_t number = ++control->counts[kind];
  const uint64_t at = control->at;
  if (at == 0 || number < at || (number > at && !control->sticky)) return 0;
  if (control->hits++ == 0) {
    inside = 1;
    snprintf(control->first_hit, sizeof control->first_hit, "%s%s %s", is_daemon ? "daemon: " : "command: ", call,
             about);
    inside = 0;
  }
  errno = (int)control->error;
  return 1;
}

static int fails_fd(enum Kind kind, const char* call, int fd) {
  if (!wanted(kind)) return 0;
  const int kept = errno;
  char path[4096];
  path_of(fd, path, sizeof path);
  errno = kept;
  return is_below(path) && fails(kind, call, path);
}

static int fails_at(enum Kind kind, const char* call, int directory, const char* path) {
  if (!wanted(kind) || path == NULL) return 0;
  if (path[0] == '/') return is_below(path) && fails(kind, call, path);
  const int kept = errno;
  char whole[8192] = {0};
  if (directory == AT_FDCWD) {
    if (syscall(SYS_getcwd, whole, 4096) < 0) whole[0] = 0;
  } else {
    path_of(directory, whole, 4096);
  }
  errno = kept;
  const size_t length = strlen(whole);
  snprintf(whole + length, sizeof whole - length, "/%s", path);
  return is_below(whole) && fails(kind, call, whole);
}

#define REAL(name)                                     \
  static __typeof__(name)* real;                       \
  if (real == NULL) {                                  \
    inside++;                                          \
    real = (__typeof__(name)*)dlsym(RTLD_NEXT, #name); \
    inside--;                                          \
  }

#define MODE                                                        \
  mode_t mode = 0;                                                  \
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) { \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    mode = va_arg(rest, mode_t);                                    \
    va_end(rest);                                                   \
  }

#define OPEN(name)                                                                                \
  int name(const char* path, int flags, ...) {                                                    \
    MODE REAL(name) return fails_at(kOpen, #name, AT_FDCWD, path) ? -1 : real(path, flags, mode); \
  }
#define OPENAT(name)                                                                                          \
  int name(int directory, const char* path, int flags, ...) {                                                 \
    MODE REAL(name) return fails_at(kOpen, #name, directory, path) ? -1 : real(directory, path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
DIR* opendir(const char* path) { REAL(opendir) return fails_at(kOpen, "opendir", AT_FDCWD, path) ? NULL : real(path); }

ssize_t read(int fd, void* to, size_t size) { REAL(read) return fails_fd(kRead, "read", fd) ? -1 : real(fd, to, size); }
#define PREAD(name, offset_type)                                                \
  ssize_t name(int fd, void* to, size_t size, offset_type at) {                 \
    REAL(name) return fails_fd(kRead, #name, fd) ? -1 : real(fd, to, size, at); \
  }
PREAD(pread, off_t)
PREAD(pread64, off64_t)
ssize_t write(int fd, const void* from, size_t size) {
  REAL(write) return fails_fd(kWrite, "write", fd) ? -1 : real(fd, from, size);
}
#define PWRITE(name, offset_type)                                                  \
  ssize_t name(int fd, const void* from, size_t size, offset_type at) {            \
    REAL(name) return fails_fd(kWrite, #name, fd) ? -1 : real(fd, from, size, at); \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
#define VECTOR(name, kind, offset_type)                                            \
  ssize_t name(int fd, const struct iovec* parts, int count, offset_type at) {     \
    REAL(name) return fails_fd(kind, #name, fd) ? -1 : real(fd, parts, count, at); \
  }
VECTOR(preadv, kRead, off_t)
VECTOR(preadv64, kRead, off64_t)
VECTOR(pwritev, kWrite, off_t)
VECTOR(pwritev64, kWrite, off64_t)
ssize_t writev(int fd, const struct iovec* parts, int count) {
  REAL(writev) return fails_fd(kWrite, "writev", fd) ? -1 : real(fd, parts, count);
}

#define SYNC(name) \
  int name(int fd) { REAL(name) return fails_fd(kSync, #name, fd) ? -1 : real(fd); }
SYNC(fsync)
SYNC(fdatasync)
SYNC(syncfs)

#define TRUNCATE(name, offset_type) \
  int name(int fd, offset_type size) { REAL(name) return fails_fd(kTruncate, #name, fd) ? -1 : real(fd, size); }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
#define FALLOCATE(name, offset_type)                                                 \
  int name(int fd, int how, offset_type at, offset_type size) {                      \
    REAL(name) return fails_fd(kTruncate, #name, fd) ? -1 : real(fd, how, at, size); \
  }
FALLOCATE(fallocate, off_t)
FALLOCATE(fallocate64, off64_t)

int rename(const char* from, const char* to) {
  REAL(rename) return fails_at(kRename, "rename", AT_FDCWD, to) ? -1 : real(from, to);
}
int renameat(int from_fd, const char* from, int to_fd, const char* to) {
  REAL(renameat) return fails_at(kRename, "renameat", to_fd, to) ? -1 : real(from_fd, from, to_fd, to);
}
int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) {
  REAL(renameat2) return fails_at(kRename, "renameat2", to_fd, to) ? -1 : real(from_fd, from, to_fd, to, flags);
}
int link(const char* from, const char* to) {
  REAL(link) return fails_at(kLink, "link", AT_FDCWD, to) ? -1 : real(from, to);
}
int linkat(int from_fd, const char* from, int to_fd, const char* to, int flags) {
  REAL(linkat) return fails_at(kLink, "linkat", to_fd, to) ? -1 : real(from_fd, from, to_fd, to, flags);
}
int mkdir(const char* path, mode_t mode) {
  REAL(mkdir) return fails_at(kLink, "mkdir", AT_FDCWD, path) ? -1 : real(path, mode);
}
#define REMOVE(name) \
  int name(const char* path) { REAL(name) return fails_at(kUnlink, #name, AT_FDCWD, path) ? -1 : real(path); }
REMOVE(unlink)
REMOVE(remove)
REMOVE(rmdir)
int unlinkat(int directory, const char* path, int flags) {
  REAL(unlinkat) return fails_at(kUnlink, "unlinkat", directory, path) ? -1 : real(directory, path, flags);
}

#define MMAP(name, offset_type)                                                         \
  void* name(void* where, size_t size, int access, int flags, int fd, offset_type at) { \
    REAL(name) if (fd >= 0 && fails_fd(kMap, #name, fd)) return MAP_FAILED;             \
    return real(where, size, access, flags, fd, at);                                    \
  }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

// Sockets lie in no folder, so all of them count.
ssize_t send(int fd, const void* from, size_t size, int flags) {
  REAL(send) return wanted(kSend) && fails(kSend, "send", "") ? -1 : real(fd, from, size, flags);
}
ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  REAL(sendmsg) return wanted(kSend) && fails(kSend, "sendmsg", "") ? -1 : real(fd, message, flags);
}
int accept4(int fd, struct sockaddr* address, socklen_t* size, int flags) {
  REAL(accept4) return wanted(kAccept) && fails(kAccept, "accept4", "") ? -1 : real(fd, address, size, flags);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  REAL(pthread_create)
  return wanted(kThread) && fails(kThread, "pthread_create", "") ? EAGAIN : real(thread, attributes, body, argument);
}

// Allocations. isr defines malloc() and the like itself, on top of the C library's __libc_malloc() and the like, which
// this file replaces. dlsym() allocates, too; until it has found the real functions, allocations take pieces of
// `early`, which are never freed.
static char early[65536];
static _Atomic size_t early_used;
static void* early_piece(size_t size) {
  const size_t at = atomic_fetch_add(&early_used, (size + 63) / 64 * 64);
  return at + size <= sizeof early ? early + (at + 63) / 64 * 64 : NULL;
}
static int is_early(const void* p) { return (const char*)p >= early && (const char*)p < early + sizeof early; }

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

#define REAL_ALLOCATION(name, instead)                                   \
  static __typeof__(name)* real;                                         \
  static __thread int asking __attribute__((tls_model("initial-exec"))); \
  if (real == NULL) {                                                    \
    if (asking) return instead;                                          \
    asking = 1;                                                          \
    real = (__typeof__(name)*)dlsym(RTLD_NEXT, #name);                   \
    asking = 0;                                                          \
  }                                                                      \
  if (wanted(kAllocate) && fails(kAllocate, #name, "")) return NULL;

void* __libc_malloc(size_t size) { REAL_ALLOCATION(__libc_malloc, early_piece(size)) return real(size); }
void* __libc_calloc(size_t count, size_t size) {
  REAL_ALLOCATION(__libc_calloc, early_piece(count * size)) return real(count, size);
}
void* __libc_realloc(void* old, size_t size) {
  if (is_early(old)) {  // only dlsym() does this; the bytes behind the old piece are copied, too, which is harmless
    void* const moved = __libc_malloc(size);
    const size_t rest = (size_t)(early + sizeof early - (char*)old);
    if (moved != NULL) memcpy(moved, old, size < rest ? size : rest);
    return moved;
  }
  REAL_ALLOCATION(__libc_realloc, NULL) return real(old, size);
}
void* __libc_memalign(size_t alignment, size_t size) {
  REAL_ALLOCATION(__libc_memalign, NULL) return real(alignment, size);
}
void free(void* p) {
  if (p != NULL && !is_early(p)) __libc_free(p);
}
// These serve a program that does not define them itself.
void* malloc(size_t size) { return __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return __libc_calloc(count, size); }
void* realloc(void* old, size_t size) { return __libc_realloc(old, size); }
void* memalign(size_t alignment, size_t size) { return __libc_memalign(alignment, size); }
void* aligned_alloc(size_t alignment, size_t size) { return __libc_memalign(alignment, size); }
int posix_memalign(void** out, size_t alignment, size_t size) {
  void* const memory = __libc_memalign(alignment, size);
  if (memory == NULL) return ENOMEM;
  *out = memory;
  return 0;
}

/*
 * Preloaded into QEMU: maps guest memory in the way that the session wants.
 *
 * QEMU maps the file of guest memory shared, so that x-ignore-shared leaves it
 * out of the saved state, and asks for huge pages on it. The first means that
 * the kernel writes changed memory back to our mount; the second that each fault
 * reads megabytes. QEMU needs neither, and has no option against either.
 *
 * In the environment (set by guest_memory.cpp, which checks what came of it):
 *   ISR_GUEST_MEMORY          the file; mappings of others are none of our business
 *   ISR_GUEST_MEMORY_AS       private  the file, copy on write; faults read single pages
 *                             zeros    no file at all: it is known to hold zeros
 *   ISR_GUEST_MEMORY_CHANNEL  number of a stream socket
 *
 * On the channel, once memory is mapped (host byte order):
 *   to isr     8 bytes address, 8 bytes length
 * and then any number of
 *   from isr   1 byte: 'r' faults read single pages, 'n' faults read around,
 *              't' from now on isr can ask the kernel what is written (PAGEMAP_SCAN), 'e' no longer
 *   to isr     1 byte: 0 done, else errno
 * The end of the channel is nobody's loss.
 *
 * What is refused or fails leaves QEMU with the mapping that it asked for. Can go
 * when QEMU maps privately what it leaves out of the saved state.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

enum kind { kNone, kPrivate, kZeros };

static struct {
  uint64_t address;
  uint64_t length;
} memory; /* of the one mapping that is ours */
static enum kind memory_kind;
static int channel;
static int tracker = -1; /* a userfaultfd, while writes are tracked */

static void* system_mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return (void*)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

static int system_madvise(void* address, size_t length, int advice) {
  return (int)syscall(SYS_madvise, address, length, advice);
}

static int set_advice(char wanted) {
  const int advice = wanted == 'n' ? MADV_NORMAL : MADV_RANDOM;
  return system_madvise((void*)memory.address, memory.length, advice) == 0 ? 0 : errno;
}

/* The kernel itself takes the faults that this makes. That is of Linux 6.7; headers may be older. */
static int begin_tracking(void) {
  const uint64_t async = 1 << 15, unpopulated = 1 << 13;
  struct uffdio_api api = {.api = UFFD_API, .features = async | unpopulated};
  struct uffdio_register area = {.range = {memory.address, memory.length}, .mode = UFFDIO_REGISTER_MODE_WP};
  if (tracker >= 0) return 0;
  const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
  if (fd < 0) return errno;
  if (ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &area) != 0) {
    const int error = errno;
    close(fd);
    return error;
  }
  tracker = fd;
  return 0;
}

static int end_tracking(void) {
  if (tracker >= 0) close(tracker);
  tracker = -1;
  return 0;
}

static void* follow_orders(void* unused) {
  char wanted;
  while (read(channel, &wanted, 1) == 1) {
    const int error = wanted == 't' ? begin_tracking() : wanted == 'e' ? end_tracking() : set_advice(wanted);
    const char result = (char)error;
    if (write(channel, &result, 1) != 1) break;
  }
  return unused;
}

/* A failure to start it means that faults go on reading single pages. */
static void start_following(void) {
  sigset_t all, before;
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) != 0) return;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 64 * 1024);
  sigfillset(&all); /* signals are for QEMU's threads */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  (void)pthread_create(&thread, &attributes, follow_orders, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

static enum kind wanted_kind(int fd) {
  const char* const file = getenv("ISR_GUEST_MEMORY");
  const char* const as = getenv("ISR_GUEST_MEMORY_AS");
  const char* const number = getenv("ISR_GUEST_MEMORY_CHANNEL");
  struct stat wanted, found;
  if (!file || !as || !number || memory_kind != kNone) return kNone;
  if (stat(file, &wanted) != 0 || fstat(fd, &found) != 0) return kNone;
  if (wanted.st_dev != found.st_dev || wanted.st_ino != found.st_ino) return kNone;
  channel = atoi(number);
  if (strcmp(as, "private") == 0) return kPrivate;
  return strcmp(as, "zeros") == 0 ? kZeros : kNone;
}

EXPORTED void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  const int candidate = fd >= 0 && offset == 0 && (protection & PROT_WRITE) && (flags & MAP_TYPE) == MAP_SHARED;
  const enum kind kind = candidate ? wanted_kind(fd) : kNone;
  if (kind == kNone) return system_mmap(address, length, protection, flags, fd, offset);
  /* Not reserved: as with a shared file, a guest may have more memory than it will ever use. */
  int ours = (flags & ~MAP_TYPE) | MAP_PRIVATE | MAP_NORESERVE;
  if (kind == kZeros) ours |= MAP_ANONYMOUS;
  void* const mapped = system_mmap(address, length, protection, ours, kind == kZeros ? -1 : fd, offset);
  if (mapped == MAP_FAILED) return system_mmap(address, length, protection, flags, fd, offset);
  memory_kind = kind;
  memory.address = (uint64_t)mapped;
  memory.length = length;
  if (kind == kPrivate) set_advice('r');
  start_following();
  if (write(channel, &memory, sizeof memory) != sizeof memory) { /* isr finds no private mapping and ends us */
  }
  return mapped;
}

EXPORTED void* mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return mmap(address, length, protection, flags, fd, offset);
}

EXPORTED int madvise(void* address, size_t length, int advice) {
  const uint64_t at = (uint64_t)address;
  const int ours = at >= memory.address && at - memory.address < memory.length;
  if (ours && advice == MADV_HUGEPAGE && memory_kind == kPrivate) return 0;
  return system_madvise(address, length, advice);
}

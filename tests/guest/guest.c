/*
 * The workload inside the test guest: everything it holds can be checked
 * after a suspend and resume, a crash, or a move to another host.
 *
 * Serial lines, one fact each:
 *   BOOT seq=M bad=B     data partition scanned; M is the highest sector on it
 *   MEM filled SUM       isr.fill MiB of memory hold their pattern
 *   TICK n               once a second; n lives in memory only
 *   MEM ok SUM           a whole pass over that memory found what was written
 *   DISK n               a flush that covers sector n and all before returned
 *   SECTORS ok           the sectors re-read in this tick were right
 *   MEM BAD .. / SECTORS BAD n ..   what was wrong
 *   CABLE c changes=n    answer to `cable`: c is 1 when the network cable is in; it was put in or out n times
 *   CLOCK s rtc=r        answer to `clock`: the clock and the hardware clock, both in seconds
 *   AGENT text           the host spoke to the agent, which isr.agent=1 makes of this program
 *   CACHED n             answer to `cache MiB`: so many bytes from the end of the disk are in the page cache
 *   GRABBED n            answer to `grab MiB`: so many bytes hold noise, what an earlier one held is free
 *   GOT text             answer to a line typed on the console
 *   WORK memory=A mixed=B  microseconds of processor and disk work, see work()
 *   BORROWED MiB         as much memory was filled, found right and given back
 *   POWEROFF             clean shutdown begins
 *
 * Kernel command line: isr.fill=MiB isr.churn=KiB isr.rate=sectors/s
 * isr.data=device isr.tick=ms (1000) isr.verify=KiB of memory a tick (8192) isr.agent=0|1. Console commands: see
 * run_command().
 *
 * A sector is 4096 bytes, little endian (scripts/check-guest-disk reads it):
 *   0 magic  8 sequence  16 slot  24 highest flushed sequence when written
 *   32 pattern from the sequence  4092 CRC-32 of bytes 0..4091
 * Sequence n (from 1) lives in slot (n-1) mod slots. The last 16 sectors of
 * the partition are not slots: they hold the text of the `fill` command.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <linux/rtc.h>
#include <net/if.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
  kSector = 4096,
  kCanarySectors = 16,
  kMaxBatch = 64,     /* sectors per flush; check-guest-disk knows it */
  kBlock = 64 * 1024, /* unit of memory checking */
  kSlicesPerTick = 10,
  kRereadsPerTick = 8,
  kMaxEvents = 8,
};

static const char kMagic[8] = {'I', 'S', 'R', 'S', 'E', 'C', 'T', '1'};

struct region {
  uint64_t* words;
  uint64_t* sums; /* expected, one per block */
  size_t blocks;
  size_t cursor;
};

static int console_fd = 0;
static int screen_fd = -1;
static int data_fd = -1;
static int agent_fd = -1;
static long fill_mb = 64, churn_kb = 1024, rate = 20, tick_ms = 1000, verify_kb = 8192, agent = 0;
static char data_path[64] = "/dev/vda2";

static struct region fill, churn;
static uint64_t churn_generation, pass_sum;
static int pass_bad;

static uint64_t slots, next_seq = 1, flushed, reread_cursor;
static unsigned char* sector; /* aligned for O_DIRECT */
static unsigned char* batch;
static char* canary;
static uint64_t ticks;

static void say(const char* format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(line, sizeof line - 1, format, args);
  va_end(args);
  if (n > (int)sizeof line - 2) n = sizeof line - 2;
  line[n++] = '\n';
  for (int done = 0; done < n;) {
    ssize_t w = write(console_fd, line + done, n - done);
    if (w < 0 && errno == EAGAIN) {
      struct pollfd p = {.fd = console_fd, .events = POLLOUT};
      poll(&p, 1, 1000);
    } else if (w < 0) {
      break;
    } else {
      done += w;
    }
  }
  if (screen_fd >= 0 && write(screen_fd, line, n) < 0) { /* picture only */
  }
}

static uint64_t mix(uint64_t x) { /* splitmix64 */
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static uint32_t crc32_of(const unsigned char* p, size_t n) {
  static uint32_t table[256];
  if (!table[1])
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      table[i] = c;
    }
  uint32_t c = ~0u;
  while (n--) c = table[(c ^ *p++) & 255] ^ (c >> 8);
  return ~c;
}

/* ---- memory ---- */

static uint64_t block_sum(const uint64_t* w) {
  uint64_t sum = 0;
  for (size_t i = 0; i < kBlock / 8; i++) sum = sum * 0x100000001b3u + w[i];
  return sum;
}

static void write_block(struct region* r, size_t b, uint64_t seed) {
  uint64_t* w = r->words + b * (kBlock / 8);
  uint64_t x = mix(seed) | 1;
  for (size_t i = 0; i < kBlock / 8; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    w[i] = x;
  }
  r->sums[b] = block_sum(w);
}

static void make_region(struct region* r, size_t bytes, uint64_t seed) {
  r->blocks = bytes / kBlock;
  if (!r->blocks) return;
  r->words = mmap(NULL, r->blocks * kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  r->sums = calloc(r->blocks, sizeof *r->sums);
  if (r->words == MAP_FAILED || !r->sums) {
    say("MEM BAD cannot allocate %zu bytes", bytes);
    r->blocks = 0;
    return;
  }
  for (size_t b = 0; b < r->blocks; b++) write_block(r, b, seed + b);
}

static uint64_t expected_sum(const struct region* r) {
  uint64_t sum = 0;
  for (size_t b = 0; b < r->blocks; b++) sum = mix(sum ^ r->sums[b]);
  return sum;
}

/* Holds so many bytes of noise; what it held before is free. */
static void grab(size_t bytes) {
  static struct region held;
  if (held.blocks) munmap(held.words, held.blocks * kBlock);
  free(held.sums);
  held = (struct region){0};
  make_region(&held, bytes, 1u << 29);
  say("GRABBED %zu", bytes);
}

/* Verifies the next blocks; one MEM line at the end of each whole pass. */
static void verify_fill(size_t blocks) {
  for (size_t i = 0; i < blocks && fill.blocks; i++) {
    uint64_t sum = block_sum(fill.words + fill.cursor * (kBlock / 8));
    if (sum != fill.sums[fill.cursor]) {
      say("MEM BAD block %zu is %016llx, was %016llx", fill.cursor, (unsigned long long)sum,
          (unsigned long long)fill.sums[fill.cursor]);
      pass_bad = 1;
    }
    pass_sum = mix(pass_sum ^ sum);
    if (++fill.cursor < fill.blocks) continue;
    if (!pass_bad) say("MEM ok %016llx", (unsigned long long)pass_sum);
    fill.cursor = 0, pass_sum = 0, pass_bad = 0;
    return;
  }
}

/* A whole pass at once. */
static void verify_all(void) {
  fill.cursor = 0, pass_sum = 0, pass_bad = 0;
  verify_fill(fill.blocks);
}

/* Fills memory, checks it and gives it back to the kernel, which may report it to the host as free. */
static void borrow_memory(long mb) {
  struct region r = {0};
  make_region(&r, (size_t)mb << 20, mix(ticks));
  for (size_t b = 0; b < r.blocks; b++)
    if (block_sum(r.words + b * (kBlock / 8)) != r.sums[b]) say("MEM BAD borrowed block %zu", b);
  if (r.blocks) munmap(r.words, r.blocks * kBlock);
  free(r.sums);
  say("BORROWED %ld", mb);
}

/* Rewrites a quarter of the churn area, so that every suspend finds memory that changed. */
static void churn_memory(void) {
  for (size_t i = 0; i < churn.blocks / 4 + (churn.blocks != 0); i++) {
    size_t b = churn.cursor;
    churn.cursor = (b + 1) % churn.blocks;
    if (block_sum(churn.words + b * (kBlock / 8)) != churn.sums[b]) say("MEM BAD churn block %zu", b);
    write_block(&churn, b, mix(++churn_generation) + b);
  }
}

/* ---- data partition ---- */

static uint64_t field(const unsigned char* s, int offset) {
  uint64_t v;
  memcpy(&v, s + offset, 8);
  return v;
}

static void make_sector(unsigned char* s, uint64_t seq) {
  uint64_t slot = (seq - 1) % slots, x = mix(seq);
  memcpy(s, kMagic, 8);
  memcpy(s + 8, &seq, 8);
  memcpy(s + 16, &slot, 8);
  memcpy(s + 24, &flushed, 8);
  for (int i = 32; i + 8 <= kSector; i += 8) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    memcpy(s + i, &x, 8);
  }
  uint32_t crc = crc32_of(s, kSector - 4);
  memcpy(s + kSector - 4, &crc, 4);
}

/* NULL if right, else what is wrong with it. */
static const char* sector_fault(const unsigned char* s, uint64_t slot) {
  uint32_t crc;
  memcpy(&crc, s + kSector - 4, 4);
  if (memcmp(s, kMagic, 8) != 0) return "magic";
  if (crc != crc32_of(s, kSector - 4)) return "checksum";
  if (field(s, 16) != slot || (field(s, 8) - 1) % slots != slot) return "position";
  return NULL;
}

/* Goes on where an earlier boot stopped, so that a crash test can check the whole history. */
static void open_data(void) {
  uint64_t size = 0, highest = 0, bad = 0;
  for (int i = 0; i < 50; i++) { /* the driver may still be probing */
    data_fd = open(data_path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (data_fd >= 0) break;
    usleep(100000);
  }
  if (data_fd < 0 || ioctl(data_fd, BLKGETSIZE64, &size) < 0 || size < (kCanarySectors + 1) * kSector) {
    say("SECTORS BAD 0 cannot open %s: %s", data_path, strerror(errno));
    if (data_fd >= 0) close(data_fd);
    data_fd = -1;
    return;
  }
  slots = size / kSector - kCanarySectors;
  for (uint64_t slot = 0; slot < slots;) {
    uint64_t n = slots - slot < kMaxBatch ? slots - slot : kMaxBatch;
    if (pread(data_fd, batch, n * kSector, slot * kSector) != (ssize_t)(n * kSector)) {
      say("SECTORS BAD 0 cannot read slot %llu: %s", (unsigned long long)slot, strerror(errno));
      bad++;
      slot += n;
      continue;
    }
    for (uint64_t i = 0; i < n; i++, slot++) {
      const unsigned char* s = batch + i * kSector;
      static const unsigned char blank[64];
      if (memcmp(s, blank, sizeof blank) == 0) continue;
      if (sector_fault(s, slot)) {
        bad++;
      } else if (field(s, 8) > highest) {
        highest = field(s, 8);
      }
    }
  }
  /* What is on the disk may not have been flushed; a flush now makes it so. */
  if (fdatasync(data_fd) == 0) flushed = highest;
  next_seq = highest + 1;
  reread_cursor = highest;
  say("BOOT seq=%llu bad=%llu slots=%llu", (unsigned long long)highest, (unsigned long long)bad,
      (unsigned long long)slots);
}

static int write_batch(uint64_t count) {
  uint64_t first = next_seq, slot = (first - 1) % slots;
  if (count > slots - slot) count = slots - slot; /* one write never wraps */
  for (uint64_t i = 0; i < count; i++) make_sector(batch + i * kSector, first + i);
  ssize_t n = pwrite(data_fd, batch, count * kSector, slot * kSector);
  if (n != (ssize_t)(count * kSector) || fdatasync(data_fd) < 0) {
    say("SECTORS BAD %llu cannot write: %s", (unsigned long long)first, strerror(errno));
    return -1; /* the same numbers again next time */
  }
  next_seq = first + count;
  flushed = next_seq - 1;
  say("DISK %llu", (unsigned long long)flushed);
  return 0;
}

/* Writes what is due in this slice of the second, remembering fractions. */
static void write_due(void) {
  static long owed; /* in sectors * slices */
  if (data_fd < 0) return;
  for (owed += rate; owed >= kSlicesPerTick;) {
    uint64_t count = owed / kSlicesPerTick;
    if (count > kMaxBatch) count = kMaxBatch;
    uint64_t before = next_seq;
    if (write_batch(count) < 0) {
      owed = 0;
      return;
    }
    owed -= (long)(next_seq - before) * kSlicesPerTick;
  }
}

static void reread_sectors(void) {
  if (data_fd < 0 || !flushed) return;
  int bad = 0;
  for (int i = 0; i < kRereadsPerTick; i++) {
    uint64_t oldest = flushed > slots ? flushed - slots + 1 : 1;
    /* From old to new by a stride, so that the whole partition is visited. */
    if ((reread_cursor += 37) > flushed || reread_cursor < oldest)
      reread_cursor = oldest + mix(ticks) % 37 % (flushed - oldest + 1);
    uint64_t seq = reread_cursor, slot = (seq - 1) % slots;
    const char* fault;
    if (pread(data_fd, sector, kSector, slot * kSector) != kSector) {
      fault = strerror(errno);
    } else if (!(fault = sector_fault(sector, slot)) && field(sector, 8) != seq) {
      fault = "sequence";
    }
    if (fault) {
      say("SECTORS BAD %llu %s (slot %llu holds %llu)", (unsigned long long)seq, fault, (unsigned long long)slot,
          (unsigned long long)field(sector, 8));
      bad = 1;
    }
  }
  if (!bad) say("SECTORS ok");
}

/* A text that a test can look for in every file that must be ciphertext. */
static void fill_canary(const char* text) {
  size_t size = kCanarySectors * kSector, n = strlen(text);
  if (!n) return;
  for (size_t i = 0; i < size; i++) canary[i] = i % (n + 1) == n ? '\n' : text[i % (n + 1)];
  if (data_fd >= 0 && (pwrite(data_fd, canary, size, slots * kSector) != (ssize_t)size || fdatasync(data_fd) < 0)) {
    say("SECTORS BAD 0 cannot write the canary: %s", strerror(errno));
    return;
  }
  say("FILLED %s", text);
}

/* ---- work that is timed ---- */

static int64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/* Memory: the filled memory read once in order, then a million words of it here and there.
   Mixed: blocks of it read, others rewritten, sectors written and flushed. */
static void work(void) {
  int64_t begin = now_us();
  uint64_t sum = 0, x = mix(ticks) | 1;
  for (size_t b = 0; b < fill.blocks; b++) sum += block_sum(fill.words + b * (kBlock / 8));
  for (int i = 0; i < 1000000 && fill.blocks; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    sum += fill.words[x % (fill.blocks * (kBlock / 8))];
  }
  int64_t middle = now_us();
  for (size_t i = 0; i < 256 && fill.blocks; i++) {
    sum += block_sum(fill.words + mix(i) % fill.blocks * (kBlock / 8));
    churn_memory();
    if (i % 16 == 0 && data_fd >= 0) write_batch(kMaxBatch);
  }
  say("WORK memory=%lld mixed=%lld sum=%016llx", (long long)(middle - begin), (long long)(now_us() - middle),
      (unsigned long long)sum);
}

/* ---- machine ---- */

static void write_text(const char* path, const char* text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) say("cannot write %s: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
}

/* ---- network, clock, agent ---- */

static void open_network(void) {
  struct ifreq request = {.ifr_name = "eth0", .ifr_flags = IFF_UP};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd >= 0) ioctl(fd, SIOCSIFFLAGS, &request); /* fails in a machine without a card */
  if (fd >= 0) close(fd);
}

/* -1: no card, or one that is not open. */
static long read_of_network(const char* path) {
  long number = -1;
  FILE* f = fopen(path, "r");
  if (!f) return -1;
  if (fscanf(f, "%ld", &number) != 1) number = -1;
  fclose(f);
  return number;
}

static void say_clock(void) {
  struct rtc_time read = {0};
  int fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, RTC_RD_TIME, &read) < 0) say("cannot read the hardware clock: %s", strerror(errno));
  if (fd >= 0) close(fd);
  struct tm t = {.tm_sec = read.tm_sec,
                 .tm_min = read.tm_min,
                 .tm_hour = read.tm_hour,
                 .tm_mday = read.tm_mday,
                 .tm_mon = read.tm_mon,
                 .tm_year = read.tm_year};
  say("CLOCK %lld rtc=%lld", (long long)time(NULL), (long long)timegm(&t));
}

/* The port appears some time after its device. */
static void open_agent(void) {
  DIR* ports = opendir("/sys/class/virtio-ports");
  if (!ports) return;
  for (struct dirent* port; agent_fd < 0 && (port = readdir(ports));) {
    char path[300], name[64] = "";
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port->d_name);
    FILE* f = fopen(path, "r");
    if (!f) continue;
    if (fscanf(f, "%63s", name) != 1) name[0] = 0;
    fclose(f);
    if (strcmp(name, "org.qemu.guest_agent.0") != 0) continue;
    snprintf(path, sizeof path, "/dev/%s", port->d_name);
    agent_fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  }
  closedir(ports);
  if (agent_fd >= 0) say("AGENT listens");
}

/* How the agent behaves: "answer", "mute" (to everything), or "refuse", "hang" or "rave" at programs to run. */
static char manner[16] = "answer";

static int is_manner(const char* name) { return strcmp(manner, name) == 0; }

static void set_manner(const char* name) {
  snprintf(manner, sizeof manner, "%s", name);
  say("AGENT is %s", manner);
}

/* Reads what lies at the end of the disk, so that the page cache holds it. */
static void fill_cache(long mb) {
  static char buffer[kBlock];
  uint64_t size = 0, got = 0;
  int fd = open("/dev/vda", O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && ioctl(fd, BLKGETSIZE64, &size) == 0 && lseek(fd, (off_t)(size - ((uint64_t)mb << 20)), SEEK_SET) >= 0)
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) got += (uint64_t)n;
  if (fd >= 0) close(fd);
  say("CACHED %llu", (unsigned long long)got);
}

/* The host asks for one program, a shell, and for what came of it. */
static void run_program(const char* line, char* reply, size_t size) {
  if (strstr(line, "guest-exec-status")) {
    snprintf(reply, size, "{\"return\": {\"exited\": %s}}\n", is_manner("hang") ? "false" : "true, \"exitcode\": 0");
  } else if (is_manner("refuse")) {
    snprintf(reply, size,
             "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"guest-exec has been disabled\"}}\n");
  } else if (is_manner("rave")) {
    snprintf(reply, size, "{\"return\": {\"pid\": [{}]}}\n{{{{\n\xff\n{\"return\": 7}\n");
  } else {
    if (is_manner("answer") && strstr(line, "drop_caches")) write_text("/proc/sys/vm/drop_caches", "1");
    snprintf(reply, size, "{\"return\": {\"pid\": 1}}\n");
  }
}

static void answer_agent(const char* line) {
  char reply[128];
  const char* at;
  if (is_manner("mute")) {
    say("AGENT mute %s", line);
    return;
  }
  if (strstr(line, "guest-exec")) {
    run_program(line, reply, sizeof reply);
  } else if (strstr(line, "guest-sync-delimited") && (at = strstr(line, "\"id\":"))) {
    snprintf(reply, sizeof reply, "\xff{\"return\": %lld}\n", atoll(at + 5));
  } else if (strstr(line, "guest-set-time") && (at = strstr(line, "\"time\":"))) {
    long long ns = atoll(at + 7);
    struct timespec now = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    clock_settime(CLOCK_REALTIME, &now);
    snprintf(reply, sizeof reply, "{\"return\": {}}\n");
  } else {
    snprintf(reply, sizeof reply, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\n");
  }
  say("AGENT %s", line);
  if (write(agent_fd, reply, strlen(reply)) < 0) say("AGENT cannot answer: %s", strerror(errno));
}

static void read_agent(void) {
  static char line[1024];
  static size_t used;
  char c;
  while (read(agent_fd, &c, 1) == 1) {
    if (c == '\n') {
      line[used] = 0;
      answer_agent(line);
      used = 0;
    } else if ((unsigned char)c != 0xff && used < sizeof line - 1) {
      line[used++] = c;
    }
  }
}

static void leave(int how) {
  if (data_fd >= 0) fdatasync(data_fd);
  sync();
  say(how == RB_POWER_OFF ? "POWEROFF" : "REBOOT");
  tcdrain(console_fd);
  reboot(how);
  say("cannot leave: %s", strerror(errno));
}

static void run_command(char* line) {
  char* rest = strchr(line, ' ');
  size_t word = rest ? (size_t)(rest - line) : strlen(line);
  rest = rest ? rest + 1 : line + word;
#define IS(name) (word == sizeof(name) - 1 && memcmp(line, name, word) == 0)
  if (IS("echo")) {
    say("GOT %s", rest);
  } else if (IS("fill")) {
    fill_canary(rest);
  } else if (IS("rate")) {
    rate = atol(rest);
    say("GOT rate %ld", rate);
  } else if (IS("verify")) {
    verify_all();
  } else if (IS("borrow")) {
    borrow_memory(atol(rest));
  } else if (IS("work")) {
    work();
  } else if (IS("date")) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    say("DATE %lld", (long long)now.tv_sec);
  } else if (IS("clock")) {
    say_clock();
  } else if (IS("cable")) {
    long changes = read_of_network("/sys/class/net/eth0/carrier_changes");
    say("CABLE %ld changes=%ld", read_of_network("/sys/class/net/eth0/carrier"), changes);
  } else if (IS("agent")) {
    set_manner(rest);
  } else if (IS("cache")) {
    fill_cache(atol(rest));
  } else if (IS("grab")) {
    grab((size_t)atol(rest) << 20);
  } else if (IS("status")) {
    say("STATUS tick=%llu flushed=%llu mem=%016llx", (unsigned long long)ticks, (unsigned long long)flushed,
        (unsigned long long)expected_sum(&fill));
  } else if (IS("crash")) {
    write_text("/proc/sys/kernel/sysrq", "1");
    write_text("/proc/sysrq-trigger", "c");
  } else if (IS("poweroff") || IS("halt")) {
    leave(RB_POWER_OFF);
  } else if (IS("reboot")) {
    leave(RB_AUTOBOOT);
  } else {
    say("GOT %s", line);
  }
#undef IS
}

static void read_console(void) {
  static char line[256];
  static size_t used;
  char c;
  while (read(console_fd, &c, 1) == 1) {
    if (c == '\n' || c == '\r') {
      line[used] = 0;
      if (used) run_command(line);
      used = 0;
    } else if (used < sizeof line - 1) {
      line[used++] = c;
    }
  }
}

static int open_events(struct pollfd* fds) {
  int n = 0;
  for (int i = 0; i < kMaxEvents; i++) {
    char path[32];
    snprintf(path, sizeof path, "/dev/input/event%d", i);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
  }
  return n;
}

static void read_events(int fd) {
  struct input_event e;
  while (read(fd, &e, sizeof e) == sizeof e)
    if (e.type == EV_KEY && e.code == KEY_POWER && e.value == 1) leave(RB_POWER_OFF);
}

static void read_options(void) {
  char text[2048] = {0};
  FILE* f = fopen("/proc/cmdline", "r");
  if (!f) return;
  if (!fgets(text, sizeof text, f)) text[0] = 0;
  fclose(f);
  for (char* word = strtok(text, " \n"); word; word = strtok(NULL, " \n")) {
    sscanf(word, "isr.fill=%ld", &fill_mb);
    sscanf(word, "isr.churn=%ld", &churn_kb);
    sscanf(word, "isr.rate=%ld", &rate);
    sscanf(word, "isr.tick=%ld", &tick_ms);
    sscanf(word, "isr.verify=%ld", &verify_kb);
    sscanf(word, "isr.data=%63s", data_path);
    sscanf(word, "isr.agent=%ld", &agent);
  }
}

static void open_console(void) {
  struct termios t;
  int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (fd >= 0) console_fd = fd;
  if (tcgetattr(console_fd, &t) == 0) {
    t.c_lflag &= ~(ICANON | ECHO | ISIG); /* an echo would split our lines */
    t.c_oflag |= OPOST | ONLCR;
    tcsetattr(console_fd, TCSANOW, &t);
  }
  screen_fd = open("/dev/tty0", O_WRONLY | O_NOCTTY | O_NONBLOCK);
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void tick(void) {
  say("TICK %llu", (unsigned long long)++ticks);
  verify_fill((size_t)verify_kb * 1024 / kBlock);
  churn_memory();
  reread_sectors();
}

int main(void) {
  struct pollfd fds[2 + kMaxEvents];
  open_console();
  say(""); /* the boot loader left escape codes on this line */
  read_options();
  if (tick_ms < kSlicesPerTick) tick_ms = kSlicesPerTick;
  reboot(RB_DISABLE_CAD);
  if (posix_memalign((void**)&sector, kSector, kSector) ||
      posix_memalign((void**)&batch, kSector, kMaxBatch * kSector) ||
      posix_memalign((void**)&canary, kSector, kCanarySectors * kSector)) {
    say("MEM BAD out of memory");
    return 1;
  }
  fds[0] = (struct pollfd){.fd = console_fd, .events = POLLIN};
  open_network();
  fds[1] = (struct pollfd){.fd = -1, .events = POLLIN};
  int count = 2 + open_events(fds + 2);
  open_data();
  make_region(&fill, (size_t)fill_mb << 20, 1);
  make_region(&churn, (size_t)churn_kb << 10, 1u << 30);
  say("MEM filled %016llx", (unsigned long long)expected_sum(&fill));

  int64_t due = now_ms();
  for (unsigned slice = 0;; slice++) {
    if (slice % kSlicesPerTick == 0) tick();
    if (agent && agent_fd < 0) open_agent();
    fds[1].fd = agent_fd;
    write_due();
    due += tick_ms / kSlicesPerTick;
    /* A clock that jumped (resume, slow host) must not cause a burst. */
    if (now_ms() - due > tick_ms) due = now_ms();
    for (int64_t left; (left = due - now_ms()) > 0;) {
      if (poll(fds, count, (int)left) <= 0) continue;
      if (fds[0].revents) read_console();
      if (fds[1].revents & POLLIN) read_agent();
      for (int i = 2; i < count; i++)
        if (fds[i].revents) read_events(fds[i].fd);
    }
  }
}

#include "vm/process_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "base/error.h"
#include "base/file.h"

namespace isr {
namespace {

constexpr std::uint64_t kPresent = 1ULL << 63U;
constexpr std::uint64_t kSwapped = 1ULL << 62U;
constexpr std::uint64_t kFileOrShared = 1ULL << 61U;
constexpr std::size_t kEntriesAtOnce = 65536;  // 256 MiB of memory
constexpr std::size_t kRangesAtOnce = 512;     // below IOV_MAX

/// Takes a number and the separator after it off the front; returns false when either is missing.
bool take_number(std::string_view& text, int base, char separator, std::uint64_t& out) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out, base);
  if (failure != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  if (text.empty() || text.front() != separator) return false;
  text.remove_prefix(1);
  return true;
}

/// "7f00-7f10 rw-s 00000000 00:2a 3   /a/file"
bool parse_line(std::string_view line, MappedArea& out) {
  constexpr std::size_t kModes = 5;  // includes the space after them
  if (!take_number(line, 16, '-', out.range.begin) || !take_number(line, 16, ' ', out.range.end)) return false;
  if (line.size() < kModes) return false;
  out.readable = line[0] == 'r';
  out.shared = line[3] == 's';
  line.remove_prefix(kModes);
  std::uint64_t offset = 0;
  std::uint64_t major = 0;
  std::uint64_t minor = 0;
  if (!take_number(line, 16, ' ', offset) || !take_number(line, 16, ':', major) || !take_number(line, 16, ' ', minor) ||
      !take_number(line, 10, ' ', out.inode)) {
    return false;
  }
  out.device = makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor));
  return true;
}

// The kernel's interface of Linux 6.7 (linux/fs.h). Debian 12 has no headers for it.
struct PageRegion {
  std::uint64_t start, end, categories;
};
struct ScanArguments {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kProtect = 1U << 0U;    // PM_SCAN_WP_MATCHING
constexpr std::uint64_t kOnlyAsync = 1U << 1U;  // PM_SCAN_CHECK_WPASYNC
constexpr std::uint64_t kIsWritten = 1U << 1U;  // PAGE_IS_WRITTEN, …
constexpr std::uint64_t kIsFile = 1U << 2U;
constexpr std::uint64_t kIsPresent = 1U << 3U;
constexpr std::uint64_t kIsSwapped = 1U << 4U;

/// Reads entries of pages from `begin` on, as many as fit into `out`.
void read_entries(int pagemap, std::uint64_t begin, std::vector<std::uint64_t>& out, const fs::path& path) {
  read_exact_at(pagemap, {reinterpret_cast<std::uint8_t*>(out.data()), out.size() * sizeof out[0]},
                begin / kPageSize * sizeof out[0], path);
}

}  // namespace

std::vector<MappedArea> parse_maps(std::string_view text) {
  std::vector<MappedArea> areas;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    MappedArea area;
    if (parse_line(text.substr(0, end), area)) areas.push_back(area);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return areas;
}

std::vector<MappedArea> read_maps(pid_t pid) {
  constexpr std::size_t kMaxText = 64U << 20U;
  return parse_maps(as_text(read_file(fmt::format("/proc/{}/maps", pid), kMaxText)));
}

std::vector<MemoryRange> own_pages(std::span<const std::uint64_t> entries, std::uint64_t begin) {
  std::vector<MemoryRange> runs;
  for (const std::uint64_t entry : entries) {
    const std::uint64_t end = begin + kPageSize;
    if ((entry & (kPresent | kSwapped)) != 0 && (entry & kFileOrShared) == 0) {
      if (!runs.empty() && runs.back().end == begin) {
        runs.back().end = end;
      } else {
        runs.push_back({begin, end});
      }
    }
    begin = end;
  }
  return runs;
}

std::vector<MemoryRange> read_own_pages(pid_t pid, MemoryRange range) {
  const fs::path path = fmt::format("/proc/{}/pagemap", pid);
  const UniqueFd fd = open_file(path, O_RDONLY);
  std::vector<std::uint64_t> entries;
  std::vector<MemoryRange> runs;
  for (std::uint64_t at = range.begin; at < range.end; at += entries.size() * kPageSize) {
    entries.resize(std::min<std::uint64_t>((range.end - at) / kPageSize, kEntriesAtOnce));
    read_entries(fd.get(), at, entries, path);
    for (const MemoryRange& run : own_pages(entries, at)) {
      if (!runs.empty() && runs.back().end == run.begin) {
        runs.back().end = run.end;
      } else {
        runs.push_back(run);
      }
    }
  }
  return runs;
}

std::vector<MemoryRange> take_own_written_pages(pid_t pid, MemoryRange range) {
  const UniqueFd fd = open_file(fmt::format("/proc/{}/pagemap", pid), O_RDONLY);
  std::vector<PageRegion> found(kRangesAtOnce);
  std::vector<MemoryRange> runs;
  ScanArguments scan{};
  scan.size = sizeof scan;
  scan.flags = kProtect | kOnlyAsync;
  scan.end = range.end;
  scan.vec = reinterpret_cast<std::uint64_t>(found.data());
  scan.vec_len = found.size();
  // Only matching pages are protected. Absent pages must not be, because the kernel would mark their place, and the
  // mark looks like a page that is swapped out.
  scan.category_mask = kIsWritten | kIsFile;
  scan.category_inverted = kIsFile;
  scan.category_anyof_mask = kIsPresent | kIsSwapped;
  while (range.begin < range.end) {
    scan.start = range.begin;
    const int count = ::ioctl(fd.get(), kPagemapScan, &scan);
    if (count < 0) throw_errno(fmt::format("the pages of process {}", pid), errno);
    for (int i = 0; i < count; ++i) runs.push_back({found[i].start, found[i].end});
    if (scan.walk_end <= range.begin) throw Error(ErrorKind::kIo, "a scan of pages made no progress");
    range.begin = scan.walk_end;
  }
  return runs;
}

std::vector<MemoryRange> present_pages(pid_t pid, MemoryRange range) {
  std::vector<std::uint64_t> entries(range.size() / kPageSize);
  const fs::path path = fmt::format("/proc/{}/pagemap", pid);
  const UniqueFd fd = open_file(path, O_RDONLY);
  read_entries(fd.get(), range.begin, entries, path);
  std::vector<MemoryRange> pages;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::uint64_t at = range.begin + i * kPageSize;
    if ((entries[i] & kPresent) != 0) pages.push_back({at, at + kPageSize});
  }
  return pages;
}

std::vector<std::vector<MemoryRange>> batches_of(std::span<const MemoryRange> runs, std::uint64_t most) {
  std::vector<std::vector<MemoryRange>> batches;
  std::uint64_t room = 0;
  for (MemoryRange run : runs) {
    while (run.size() > 0) {
      if (room == 0 || batches.back().size() == kRangesAtOnce) {
        batches.emplace_back();
        room = most;
      }
      const std::uint64_t size = std::min(run.size(), room);
      batches.back().push_back({run.begin, run.begin + size});
      run.begin += size;
      room -= size;
    }
  }
  return batches;
}

void read_process(pid_t pid, std::span<const MemoryRange> ranges, MutableBytes out) {
  std::vector<iovec> from;
  std::size_t size = 0;
  for (const MemoryRange& range : ranges) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the other process
    from.push_back({reinterpret_cast<void*>(range.begin), range.size()});
    size += range.size();
  }
  const iovec into{out.data(), size};
  if (size > out.size()) throw Error(ErrorKind::kBug, "the buffer is too small for the memory ranges to read");
  const ssize_t got = ::process_vm_readv(pid, &into, 1, from.data(), from.size(), 0);
  if (got < 0) throw_errno(fmt::format("the memory of process {}", pid), errno);
  if (static_cast<std::size_t>(got) != size)
    throw Error(ErrorKind::kIo, fmt::format("the memory of process {} cannot be read", pid));
}

}  // namespace isr

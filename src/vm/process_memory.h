#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace isr {

/// Reads the memory of another process of this user, a paused child. Addresses are those of the other process; pages
/// have 4096 bytes.

inline constexpr std::uint64_t kPageSize = 4096;

/// A range of addresses.
struct MemoryRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t size() const noexcept { return end - begin; }
  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

/// One line of /proc/PID/maps.
struct MappedArea {
  MemoryRange range;
  bool shared = false;
  bool readable = false;
  std::uint64_t device = 0;  ///< as st_dev; 0 with inode 0: no file
  std::uint64_t inode = 0;
};
/// Skips lines that do not have the form of /proc/PID/maps. Pure.
std::vector<MappedArea> parse_maps(std::string_view text);
/// Error{kIo}.
std::vector<MappedArea> read_maps(pid_t pid);

/// Finds the pages that are the process's own, present or swapped out, as the fewest runs. `entries` come from
/// /proc/PID/pagemap, the first for the page at `begin`. Pages that the process never wrote in a private mapping of a
/// file are not its own. Pure.
std::vector<MemoryRange> own_pages(std::span<const std::uint64_t> entries, std::uint64_t begin);
/// The own pages of a range. Error{kIo}.
std::vector<MemoryRange> read_own_pages(pid_t pid, MemoryRange range);

/// The own pages of a range that were written since the last call. The range must have asynchronous write protection
/// (userfaultfd, Linux 6.7). The first call returns all own pages and begins the protection. While it lasts,
/// read_own_pages() may return pages that were given back. Error{kIo}, also when the kernel does not support this.
std::vector<MemoryRange> take_own_written_pages(pid_t pid, MemoryRange range);

/// The pages of a range, of any kind, that can be read without waiting. Error{kIo}.
std::vector<MemoryRange> present_pages(pid_t pid, MemoryRange range);

/// Cuts runs into pieces of at most `most` bytes and groups consecutive pieces up to that size and a bounded number.
/// Pure.
std::vector<std::vector<MemoryRange>> batches_of(std::span<const MemoryRange> runs, std::uint64_t most);
/// Fills `out` with the ranges one after the other. Error{kIo}, also when the kernel does not permit it.
void read_process(pid_t pid, std::span<const MemoryRange> ranges, MutableBytes out);

}  // namespace isr

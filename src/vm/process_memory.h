#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace isr {

/// The memory of another process of this user, a child of ours that holds still.
/// Addresses are the other's; pages have 4096 bytes.

inline constexpr std::uint64_t kPageSize = 4096;

/// A run of addresses.
struct MemoryRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t size() const noexcept { return end - begin; }
  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

/// A line of /proc/PID/maps.
struct MappedArea {
  MemoryRange range;
  bool shared = false;
  bool readable = false;
  std::uint64_t device = 0;  ///< as st_dev; 0 with inode 0: no file
  std::uint64_t inode = 0;
};
/// Pure. Lines that are none of maps are left out.
std::vector<MappedArea> parse_maps(std::string_view text);
/// Error{kIo}.
std::vector<MappedArea> read_maps(pid_t pid);

/// Of entries of /proc/PID/pagemap, the first for the page at `begin`: pages that
/// are the process's own, present or swapped out, as the fewest runs. Pages that it
/// never wrote in a private mapping of a file are not among them. Pure.
std::vector<MemoryRange> own_pages(std::span<const std::uint64_t> entries, std::uint64_t begin);
/// Those of a range. Error{kIo}.
std::vector<MemoryRange> read_own_pages(pid_t pid, MemoryRange range);

/// Of a range with asynchronous write protection (userfaultfd, Linux 6.7): those that were written since the last call.
/// The first call, which finds all of them, begins it. Meanwhile read_own_pages() may name some that were given back.
/// Error{kIo}, also where the kernel cannot.
std::vector<MemoryRange> take_own_written_pages(pid_t pid, MemoryRange range);

/// Pages of a range, of any kind, that a reader would not have to wait for. Error{kIo}.
std::vector<MemoryRange> present_pages(pid_t pid, MemoryRange range);

/// Cuts runs into pieces of at most `most` bytes and groups pieces that follow one
/// another up to that size and a bounded number. Pure.
std::vector<std::vector<MemoryRange>> batches_of(std::span<const MemoryRange> runs, std::uint64_t most);
/// Fills out with the ranges one after the other. Error{kIo}, also when the kernel does not let us.
void read_process(pid_t pid, std::span<const MemoryRange> ranges, MutableBytes out);

}  // namespace isr

#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/sync.h"

/// Plays a power cut and a failing disk under packs, by functions in the place of the C library's.
namespace isr::test {

/// What of the packs reached the disk, for the tests that play a power cut. A write is in the page
/// cache until an fdatasync; one that fails leaves it there as clean, and it never reaches the disk.
/// What another process wrote is as if its sync had failed.
struct Disk {
  struct File {
    Bytes durable;
    std::vector<std::pair<std::uint64_t, Bytes>> dirty;  ///< by offset
  };
  std::map<std::string, File> packs;
  bool fail_syncs = false;
  int full_writes = 0;  ///< so many writes to packs meet a full disk
};
Sync<Disk>& disk();

/// A sync that fails then kills the process.
bool& syncs_kill();
/// Syncs of directories fail.
bool& fail_directory_syncs();
/// Runs once, before the next read of a record.
std::function<void()>& before_next_read();
/// The store as a power cut would leave it.
void copy_after_power_cut(const fs::path& store, const fs::path& copy);

}  // namespace isr::test

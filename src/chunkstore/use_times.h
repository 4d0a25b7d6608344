#pragma once

#include <condition_variable>
#include <optional>
#include <unordered_map>

#include "base/sync.h"
#include "base/thread_pool.h"
#include "chunkstore/pack_index.h"

namespace isr {

/// When the objects of a cache were used last, until that is in its index. It
/// goes there in batches, on a thread and through a connection of its own, so
/// that nobody who reads waits for it.
///
/// Errors:  none. What cannot be written, or is lost in a crash, costs only that
///          objects seem to have been used longer ago than they were.
/// Threads: any. Its own begins with the first batch.
class UseTimes {
 public:
  explicit UseTimes(fs::path index_file) : index_file_(std::move(index_file)) {}

  void note(const Cid& cid, std::int64_t time);
  /// Returns when all that was noted before is in the index.
  void commit();

 private:
  using Times = std::unordered_map<Cid, std::int64_t, FixedBytesHash>;
  struct State {
    Times noted;
    bool is_writing = false;
    std::optional<ThreadPool> thread;
  };
  void write_noted();
  void write(const Times& times);

  fs::path index_file_;
  std::unique_ptr<PackIndex> index_;  // of whoever set is_writing
  std::condition_variable written_;
  Sync<State> state_;  // last: its thread uses the rest
};

}  // namespace isr

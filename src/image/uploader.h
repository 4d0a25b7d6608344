#pragma once

#include <condition_variable>

#include "base/thread_pool.h"
#include "chunkstore/object.h"
#include "repository/blob_store.h"

namespace isr {

struct UploadCounters {
  std::atomic<std::uint64_t> objects{0}, bytes{0}, existed{0};
};

/// Puts objects into a repository, several at a time. Idempotent: an object that
/// is there already is fine, its name is its hash; Error{kCorrupt} when it has
/// another length.
class Uploader {
 public:
  Uploader(BlobStorePtr store, unsigned threads, UploadCounters& counters);
  ~Uploader();  ///< drops what has not begun

  /// Waits while too much is under way. Throws the first failure of any put before.
  void put(const Cid& cid, Bytes object);
  /// As put(); `load` is called on an upload thread.
  void put_later(const Cid& cid, std::function<Bytes()> load);
  /// Returns when everything is durable in the store, or throws the first failure.
  void finish();

 private:
  struct State {
    std::size_t under_way = 0;
    std::exception_ptr failure;
  };
  void put_new(const Cid& cid, ByteView object);
  void run(const Cid& cid, const std::function<Bytes()>& load);

  BlobStorePtr store_;
  UploadCounters& counters_;
  std::size_t most_under_way_;
  Sync<State> state_;
  std::condition_variable changed_;
  ThreadPool pool_;  // last: its threads use the rest
};

}  // namespace isr

#pragma once

#include <condition_variable>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "image/image.h"

namespace isr {

/// What to fetch, in this order.
struct FillPlan {
  struct Place {
    std::shared_ptr<const Image> image;
    std::uint64_t chunk = 0;
  };
  std::shared_ptr<HotPages> pack;           ///< first all of this pack; may be null
  std::vector<Place> order;                 ///< then these chunks
  std::shared_ptr<const Image> whole;       ///< then every chunk of this image's base; may be null
  std::function<bool(const Cid&)> is_here;  ///< whether a store of this host has the object
  /// Called with the objects of `whole`, including pages, before they are counted. It pins them, so that they stay on
  /// this host. May be empty.
  std::function<void(std::span<const Cid>)> pin;
  std::function<void()> on_order_here;  ///< called once, when the order's chunks are here; may be empty
};

struct FillProgress {
  std::uint64_t pack_bytes = 0, pack_bytes_here = 0;  ///< as objects; unavailable ones count as here
  std::size_t order = 0, order_here = 0;              ///< chunks, counted likewise
  std::optional<std::size_t> whole;                   ///< chunks of `whole` that are not zero, once they were counted
  std::size_t whole_here = 0;
  std::optional<WallTime> complete_since;  ///< set when every chunk and page of `whole` is pinned on this host
  bool pack_done = false;                  ///< the pack is here, as far as it can be fetched
  bool order_done = false;                 ///< likewise for the order
  bool waiting = false;                    ///< waiting for the repository to come back
  bool is_incomplete_again = false;        ///< recheck() found that an object is gone
};

/// Fetches chunks ahead of need, after those that a guest waits for, so that later reads find them on this host. When
/// the repository cannot be reached, it waits and then goes on. Damage in the repository is logged and left to the
/// guest's own read.
/// Threads: start() begins threads of its own, the destructor ends them.
class ChunkFill {
 public:
  /// The reader must outlive it.
  ChunkFill(ChunkReader& reader, FillPlan plan);
  ~ChunkFill();
  ChunkFill(const ChunkFill&) = delete;
  ChunkFill& operator=(const ChunkFill&) = delete;

  void start();
  /// Cancels running fetches; returns at once.
  void request_stop();
  FillProgress progress() const;
  /// As progress(), but when `whole` was complete, checks it again and fetches missing objects again.
  FillProgress recheck();
  /// Returns when the pack is done, after the time-out, or on stop. Calls `report` repeatedly.
  void wait_for_pack(std::chrono::milliseconds timeout, const std::stop_token& stop,
                     const std::function<void(const FillProgress&)>& report) const;

 private:
  void run(const std::stop_token& stop);
  void bring_pack(const std::stop_token& stop);
  void bring_order(const std::stop_token& stop);
  bool list_whole(const std::stop_token& stop);
  void bring_whole(const std::stop_token& stop);
  std::vector<ChunkRef> missing_objects() const;
  /// Calls `done` after each body, even one that failed, unless it was stopped; may be empty.
  void for_each(std::size_t count, const std::stop_token& stop, const std::function<void(std::size_t)>& body,
                const std::function<void(std::size_t)>& done = {});
  bool persist(const std::stop_token& stop, const std::function<void()>& body);
  void bring(const ChunkRef& ref, const std::stop_token& stop);
  template <class Change>
  void note(Change change);

  ChunkReader& reader_;
  FillPlan plan_;
  Sync<FillProgress> progress_;
  mutable std::condition_variable_any changed_;
  /// Chunks first, then pages. Not changed after progress has `whole`.
  std::vector<ChunkRef> whole_;
  std::atomic<std::size_t> failed_{0};
  std::jthread thread_;
};

}  // namespace isr

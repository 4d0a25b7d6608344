// Two small caches of decoded things, chunks and pages, each with a table of
// what is being decoded right now, so that many readers of one chunk share the work.

#include "image/chunk_reader.h"

#include <fmt/format.h>

#include <condition_variable>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "base/thread_pool.h"
#include "image/lru.h"

namespace isr {
namespace {

constexpr std::size_t kMaxWaitingPrefetches = 256;

template <class Value>
class DecodedCache {
 public:
  explicit DecodedCache(std::size_t capacity) : state_(State{LruByCid<Value>(capacity), {}}) {}

  bool contains(const Cid& cid) { return state_.lock()->ready.contains(cid); }

  template <class Decode>
  Value get(const Cid& cid, Priority priority, Decode decode) {
    for (;;) {
      std::shared_ptr<Flight> flight;
      {
        auto state = state_.lock();
        if (auto value = state->ready.find(cid)) return *std::move(value);
        auto& entry = state->decoding[cid];
        if (!entry) {
          entry = std::make_shared<Flight>();
          entry->priority = priority;
          flight = entry;
          state.unlock();
          return lead(cid, *flight, decode);
        }
        flight = entry;
        state.wait(landed_, [&] { return flight->done; });
        if (flight->value) return *flight->value;
        // The leader's own retry would fail us the same way, unless it mattered less to it.
        if (flight->failure && flight->priority <= priority) {
          throw Error(flight->failure->kind(), flight->failure->what(), flight->failure->hints());
        }
      }
    }
  }

 private:
  struct Flight {
    Priority priority = Priority::kGuest;
    bool done = false;
    std::optional<Value> value;
    std::optional<Error> failure;  // neither: something else than an Error was thrown
  };

  template <class Decode>
  Value lead(const Cid& cid, Flight& flight, Decode decode) {
    try {
      Value value = decode();
      land(cid, flight, [&](State& state) {
        state.ready.insert(cid, value);
        flight.value = value;
      });
      return value;
    } catch (const Error& error) {
      land(cid, flight, [&](State&) { flight.failure.emplace(error.kind(), error.what(), error.hints()); });
      throw;
    } catch (...) {
      land(cid, flight, [](State&) {});
      throw;
    }
  }

  template <class Store>
  void land(const Cid& cid, Flight& flight, Store store) {
    {
      auto state = state_.lock();
      store(*state);
      flight.done = true;
      state->decoding.erase(cid);
    }
    landed_.notify_all();
  }

  struct State {
    LruByCid<Value> ready;
    std::unordered_map<Cid, std::shared_ptr<Flight>, FixedBytesHash> decoding;
  };
  Sync<State> state_;
  std::condition_variable landed_;
};

}  // namespace

struct ChunkReader::Impl {
  Impl(SourcePtr from, const ReaderOptions& options)
      : source(std::move(from)),
        chunks(std::max<std::size_t>(options.decoded_bytes / kChunkSize, 4)),
        pages(options.decoded_pages),
        prefetch_threads(options.prefetch_threads) {}

  /// Fetches and opens; what does not open is dropped from caches and fetched once more.
  template <class Open>
  auto fetch_and_open(const ChunkRef& ref, Priority priority, Open open) {
    for (int attempt = 0;; ++attempt) {
      const auto object = source->fetch(ref.cid, priority, stop.get_token());
      if (!object) {
        throw Error(ErrorKind::kCorrupt,
                    fmt::format("object {} is missing in {}", to_hex(ref.cid.view()), source->describe()));
      }
      try {
        return open(*object);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kCorrupt || attempt > 0) throw;
        log::warn("{}; dropped from the cache, fetching it again", error.what());
        source->drop(ref.cid);
      }
    }
  }

  SourcePtr source;
  DecodedCache<ChunkData> chunks;
  DecodedCache<PageData> pages;
  std::stop_source stop;
  unsigned prefetch_threads;
  Sync<std::unique_ptr<ThreadPool>> pool;
};

ChunkReader::ChunkReader(SourcePtr source, const ReaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(source), options)) {}

ChunkReader::~ChunkReader() {
  cancel();
  const auto pool = std::move(*impl_->pool.lock());  // joined while everything its tasks use is still there
}

ChunkData ChunkReader::read_chunk(const ChunkRef& ref, Priority priority) {
  return impl_->chunks.get(ref.cid, priority, [&] {
    return impl_->fetch_and_open(ref, priority, [&](ByteView object) {
      auto data = std::make_shared<Bytes>(kChunkSize);
      open_chunk(ref, object, *data);
      return ChunkData(std::move(data));
    });
  });
}

PageData ChunkReader::read_page(const ChunkRef& ref, Priority priority) {
  return impl_->pages.get(ref.cid, priority, [&] {
    return impl_->fetch_and_open(ref, priority, [&](ByteView object) {
      return PageData(std::make_shared<const std::vector<ChunkRef>>(open_page(ref, object)));
    });
  });
}

bool ChunkReader::is_decoded(const ChunkRef& ref) { return impl_->chunks.contains(ref.cid); }

void ChunkReader::prefetch(std::function<void()> task) {
  if (impl_->stop.stop_requested()) return;
  auto pool = impl_->pool.lock();
  if (!*pool) *pool = std::make_unique<ThreadPool>(impl_->prefetch_threads);
  if ((*pool)->pending() < kMaxWaitingPrefetches) (*pool)->submit(std::move(task));
}

void ChunkReader::cancel() { impl_->stop.request_stop(); }

}  // namespace isr

// Two small caches of decoded things, chunks and pages, each with a table of
// what is being decoded right now, so that many readers of one chunk share the work.

#include "image/chunk_reader.h"

#include <fmt/format.h>

#include <future>

#include "base/log.h"
#include "base/thread_pool.h"
#include "image/lru.h"

namespace isr {
namespace {

constexpr std::size_t kMaxWaitingPrefetches = 256;

template <class Value>
class DecodedCache {
 public:
  explicit DecodedCache(std::size_t capacity) : state_(State{LruByCid<Value>(capacity), {}}) {}

  bool contains(const Cid& cid) {
    return state_.lock()->ready.contains(cid);
  }

  template <class Decode>
  Value get(const Cid& cid, Decode decode) {
    std::promise<Value> mine;
    std::shared_future<Value> theirs;
    {
      auto state = state_.lock();
      if (auto value = state->ready.find(cid)) return *value;
      if (const auto it = state->decoding.find(cid); it != state->decoding.end()) {
        theirs = it->second;
      } else {
        state->decoding.emplace(cid, mine.get_future().share());
      }
    }
    if (theirs.valid()) return theirs.get();
    try {
      Value value = decode();
      auto state = state_.lock();
      state->ready.insert(cid, value);
      state->decoding.erase(cid);
      mine.set_value(value);
      return value;
    } catch (...) {
      state_.lock()->decoding.erase(cid);
      mine.set_exception(std::current_exception());
      throw;
    }
  }

 private:
  struct State {
    LruByCid<Value> ready;
    std::unordered_map<Cid, std::shared_future<Value>, FixedBytesHash> decoding;
  };
  Sync<State> state_;
};

}  // namespace

struct ChunkReader::Impl {
  Impl(SourcePtr from, const ReaderOptions& options)
      : source(std::move(from)),
        chunks(std::max<std::size_t>(options.decoded_bytes / kChunkSize, 4)),
        pages(options.decoded_pages),
        pool(options.prefetch_threads) {}

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
  ThreadPool pool;  // last: its threads use the rest
};

ChunkReader::ChunkReader(SourcePtr source, const ReaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(source), options)) {}

ChunkReader::~ChunkReader() { cancel(); }

ChunkData ChunkReader::read_chunk(const ChunkRef& ref, Priority priority) {
  return impl_->chunks.get(ref.cid, [&] {
    return impl_->fetch_and_open(ref, priority, [&](ByteView object) {
      auto data = std::make_shared<Bytes>(kChunkSize);
      open_chunk(ref, object, *data);
      return ChunkData(std::move(data));
    });
  });
}

PageData ChunkReader::read_page(const ChunkRef& ref, Priority priority) {
  return impl_->pages.get(ref.cid, [&] {
    return impl_->fetch_and_open(ref, priority, [&](ByteView object) {
      return PageData(std::make_shared<const std::vector<ChunkRef>>(open_page(ref, object)));
    });
  });
}

bool ChunkReader::is_decoded(const ChunkRef& ref) { return impl_->chunks.contains(ref.cid); }

void ChunkReader::prefetch(std::function<void()> task) {
  if (impl_->pool.pending() < kMaxWaitingPrefetches) impl_->pool.submit(std::move(task));
}

void ChunkReader::cancel() { impl_->stop.request_stop(); }

}  // namespace isr

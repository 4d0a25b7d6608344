// Two small caches, of decoded chunks and decoded pages. Each has a table of what is being decoded now, so that many
// readers of one chunk share the work.

#include "image/chunk_reader.h"

#include <fmt/format.h>

#include <condition_variable>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "image/chunk_spill.h"
#include "image/lru.h"
#include "image/prefetch_queue.h"

namespace isr {
namespace {

constexpr unsigned kFirstPrefetches = 8;  // covers a large read while the link's speed is unknown
constexpr std::size_t kMaxWaitingSpills = 32;
constexpr unsigned kLeastAhead = 2;  // chunks
constexpr unsigned kMostAhead = 32;
constexpr auto kRoomAgain = std::chrono::milliseconds(100);  // check again: the link's window may have changed

template <class Value>
class DecodedCache {
 public:
  explicit DecodedCache(std::size_t capacity) : state_(State{LruByRef<Value>(capacity), {}}) {}

  bool contains(const ChunkRef& ref) { return state_.lock()->ready.contains(ref); }
  /// The value if it is ready, else an empty one.
  Value find(const ChunkRef& ref) { return state_.lock()->ready.find(ref).value_or(Value{}); }

  template <class Decode>
  Value get(const ChunkRef& ref, Priority priority, const std::stop_token& stop, Decode decode) {
    for (;;) {
      std::shared_ptr<Flight> flight;
      {
        auto state = state_.lock();
        if (auto value = state->ready.find(ref)) return *std::move(value);
        auto& entry = state->decoding[ref];
        if (!entry) {
          entry = std::make_shared<Flight>();
          entry->priority = priority;
          flight = entry;
          state.unlock();
          return lead(ref, *flight, stop, decode);
        }
        flight = entry;
        if (priority == Priority::kSettling && is_awaited(flight->priority)) {
          throw Error(ErrorKind::kTransient, fmt::format("object {} is being fetched", short_hex(ref.cid.view())));
        }
        if (!landed_.wait(state.mutex_lock(), stop, [&] { return flight->done; })) {
          throw Error(ErrorKind::kCancelled, fmt::format("object {}: cancelled", short_hex(ref.cid.view())));
        }
        if (flight->value) return *flight->value;
        // A retry would fail in the same way as the leader's fetch, unless the leader had a lower priority.
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
    std::optional<Error> failure;  // neither: only the leader has failed, and waiters try themselves
  };

  template <class Decode>
  Value lead(const ChunkRef& ref, Flight& flight, const std::stop_token& stop, Decode decode) {
    try {
      Value value = decode();
      land(ref, flight, [&](State& state) {
        state.ready.insert(ref, value);
        flight.value = value;
      });
      return value;
    } catch (const Error& error) {
      const bool own = error.kind() == ErrorKind::kCancelled && stop.stop_requested();
      land(ref, flight, [&](State&) {
        if (!own) flight.failure.emplace(error.kind(), error.what(), error.hints());
      });
      throw;
    } catch (...) {
      land(ref, flight, [](State&) {});
      throw;
    }
  }

  template <class Store>
  void land(const ChunkRef& ref, Flight& flight, Store store) {
    {
      auto state = state_.lock();
      store(*state);
      flight.done = true;
      state->decoding.erase(ref);
    }
    landed_.notify_all();
  }

  struct State {
    LruByRef<Value> ready;
    std::unordered_map<ChunkRef, std::shared_ptr<Flight>, ChunkRefHash> decoding;
  };
  Sync<State> state_;
  std::condition_variable_any landed_;
};

/// The numbers of fetches under way.
struct Fetches {
  unsigned guest = 0;    // fetches that guests wait for
  unsigned brought = 0;  // fetches by bring()
};

}  // namespace

struct ChunkReader::Impl {
  Impl(SourcePtr from, const ReaderOptions& options)
      : source(std::move(from)),
        chunks(std::max<std::size_t>(options.decoded_bytes / kChunkSize, 4)),
        pages(options.decoded_pages),
        link(options.link),
        spill(make_chunk_spill(options.spill)),
        queue({options.prefetch_threads}, [this] { return link_window().value_or(kFirstPrefetches); }),
        spill_queue({.threads = 1, .most_waiting = kMaxWaitingSpills}, [] { return 1U; }) {}

  std::optional<unsigned> link_window() const {
    return link ? link->window(std::chrono::steady_clock::now()) : std::nullopt;
  }

  /// Counts the end of a fetch, either one that a guest waits for or one of bring().
  class UnderWay {
   public:
    UnderWay(Impl& impl, unsigned Fetches::*kind) : impl_(impl), kind_(kind) {}
    ~UnderWay() {
      --((*impl_.fetches.lock()).*kind_);
      impl_.fetch_ended.notify_all();
    }
    UnderWay(const UnderWay&) = delete;
    UnderWay& operator=(const UnderWay&) = delete;

   private:
    Impl& impl_;
    unsigned Fetches::*kind_;
  };

  /// Waits for room. Fetches that guests wait for count, so that on a thin link they run alone.
  void begin_bringing(const std::stop_token& cancelled) {
    auto state = fetches.lock();
    const auto has_room = [&] {
      return state->guest + state->brought < std::max(1U, link_window().value_or(kFirstPrefetches));
    };
    while (!has_room() && !cancelled.stop_requested()) {
      fetch_ended.wait_for(state.mutex_lock(), cancelled, kRoomAgain, has_room);
    }
    ++state->brought;
  }

  /// Fetches and opens an object. If it does not open, drops it from caches and fetches it once more.
  template <class Open>
  auto fetch_and_open(const ChunkRef& ref, Priority priority, const std::stop_token& cancelled, Open open) {
    std::stop_source either;
    const auto end = [&] { either.request_stop(); };
    const std::stop_callback with_reader(stop.get_token(), end);
    const std::stop_callback with_interrupt(interrupted.lock()->get_token(), end);
    const std::stop_callback with_caller(cancelled, end);
    std::optional<UnderWay> under_way;
    if (priority <= Priority::kImpatient) {
      ++fetches.lock()->guest;
      under_way.emplace(*this, &Fetches::guest);
    }
    for (int attempt = 0;; ++attempt) {
      const auto object = source->fetch(ref.cid, priority, either.get_token());
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
  Sync<Fetches> fetches;
  std::condition_variable_any fetch_ended;
  DecodedCache<ChunkData> chunks;
  DecodedCache<PageData> pages;
  std::stop_source stop;
  Sync<std::stop_source> interrupted;  // for the fetches that are running
  const LinkMeter* link;
  std::unique_ptr<ChunkSpill> spill;  // may be null
  // Declared last, because its tasks use the other members.
  PrefetchQueue queue;
  PrefetchQueue spill_queue;
};

ChunkReader::ChunkReader(SourcePtr source, const ReaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(source), options)) {}

ChunkReader::~ChunkReader() { cancel(); }

ChunkData ChunkReader::read_chunk(const ChunkRef& ref, Priority priority, const std::stop_token& stop) {
  return impl_->chunks.get(ref, priority, stop, [&] {
    return impl_->fetch_and_open(ref, priority, stop, [&](ByteView object) {
      const auto data = std::make_shared_for_overwrite<std::array<std::uint8_t, kChunkSize>>();
      open_chunk(ref, object, *data);
      return ChunkData(data);
    });
  });
}

void ChunkReader::read_piece(const ChunkRef& ref, std::size_t within, MutableBytes out) {
  ChunkData data = impl_->chunks.find(ref);
  if (!data) {
    if (impl_->spill && impl_->spill->read(ref, within, out)) return;
    data = read_chunk(ref);
    if (impl_->spill) impl_->spill_queue.submit([this, ref, data] { impl_->spill->put(ref, data); });
  }
  std::copy_n(data->begin() + static_cast<std::ptrdiff_t>(within), out.size(), out.begin());
}

PageData ChunkReader::read_page(const ChunkRef& ref, Priority priority, const std::stop_token& stop) {
  return impl_->pages.get(ref, priority, stop, [&] {
    return impl_->fetch_and_open(ref, priority, stop, [&](ByteView object) {
      return PageData(std::make_shared<const std::vector<ChunkRef>>(open_page(ref, object)));
    });
  });
}

void ChunkReader::bring(const ChunkRef& ref, std::stop_token stop) {
  impl_->begin_bringing(stop);
  const Impl::UnderWay under_way(*impl_, &Fetches::brought);
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "cancelled");
  if (impl_->source->fetch(ref.cid, Priority::kReadahead, std::move(stop))) return;
  throw Error(ErrorKind::kCorrupt,
              fmt::format("object {} is missing in {}", to_hex(ref.cid.view()), impl_->source->describe()));
}

bool ChunkReader::is_decoded(const ChunkRef& ref) { return impl_->chunks.contains(ref); }

void ChunkReader::prefetch(std::function<void()> task) {
  if (!impl_->stop.stop_requested()) impl_->queue.submit(std::move(task));
}

unsigned ChunkReader::ahead_limit() const {
  const auto window = impl_->link_window();
  return window ? std::clamp(2 * *window, kLeastAhead, kMostAhead) : kMostAhead;
}

std::uint64_t ChunkReader::give_up_spill() { return impl_->spill ? impl_->spill->give_up() : 0; }

void ChunkReader::wait_for_spills() { impl_->spill_queue.wait_idle(); }

void ChunkReader::interrupt() {
  std::stop_source now;
  std::swap(now, *impl_->interrupted.lock());
  now.request_stop();
}

void ChunkReader::cancel() { impl_->stop.request_stop(); }

}  // namespace isr

// A few threads take the next chunk each. ChunkReader::bring() lets as many of them go at once as the link allows
// beside the guest's own reads.

#include "image/chunk_fill.h"

#include <sys/resource.h>
#include <unistd.h>

#include <system_error>

#include "base/log.h"

namespace isr {
namespace {

constexpr unsigned kThreads = 12;
constexpr int kNice = 10;
constexpr std::chrono::milliseconds kReportEvery{100};
constexpr std::chrono::milliseconds kFirstPause{500};
constexpr std::chrono::milliseconds kLongestPause{10'000};

/// Missing pages count as chunks.
std::size_t chunks_here(std::size_t chunks, std::size_t missing) { return chunks - std::min(chunks, missing); }

bool is_unreachable(ErrorKind kind) { return kind == ErrorKind::kOffline || kind == ErrorKind::kTransient; }

}  // namespace

ChunkFill::ChunkFill(ChunkReader& reader, FillPlan plan) : reader_(reader), plan_(std::move(plan)) {
  auto progress = progress_.lock();
  progress->order = plan_.order.size();
  for (std::size_t i = 0; plan_.pack && i < plan_.pack->chunks(); ++i) progress->pack_bytes += plan_.pack->length(i);
}

ChunkFill::~ChunkFill() { request_stop(); }

template <class Change>
void ChunkFill::note(Change change) {
  change(*progress_.lock());
  changed_.notify_all();
}

void ChunkFill::start() {
  try {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  } catch (const std::system_error& error) {
    // The guest still fetches what it reads. Callers must not wait for a pack that is not on its way.
    log::warn("nothing can be fetched ahead: {}", error.what());
    note([](FillProgress& progress) { progress.pack_done = true; });
  }
}

void ChunkFill::request_stop() { thread_.request_stop(); }

FillProgress ChunkFill::progress() const { return *progress_.lock(); }

void ChunkFill::wait_for_pack(std::chrono::milliseconds timeout, const std::stop_token& stop,
                              const std::function<void(const FillProgress&)>& report) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    FillProgress now;
    {
      auto progress = progress_.lock();
      const auto tick = std::min(deadline, std::chrono::steady_clock::now() + kReportEvery);
      changed_.wait_until(progress.mutex_lock(), stop, tick, [&] { return progress->pack_done; });
      now = *progress;
    }
    report(now);
    if (now.pack_done || stop.stop_requested() || std::chrono::steady_clock::now() >= deadline) return;
  }
}

/// Runs body until it no longer fails because the repository is out of reach. Returns false when stopped.
bool ChunkFill::persist(const std::stop_token& stop, const std::function<void()>& body) {
  for (auto pause = kFirstPause; !stop.stop_requested(); pause = std::min(pause * 2, kLongestPause)) {
    try {
      body();
      note([](FillProgress& progress) { progress.waiting = false; });
      return true;
    } catch (const Error& error) {
      if (!is_unreachable(error.kind())) throw;
    }
    auto progress = progress_.lock();
    progress->waiting = true;
    changed_.wait_for(progress.mutex_lock(), stop, pause, [] { return false; });
  }
  return false;
}

void ChunkFill::for_each(std::size_t count, const std::stop_token& stop, const std::function<void(std::size_t)>& body,
                         const std::function<void(std::size_t)>& done) {
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
    for (std::size_t i = next++; i < count && !stop.stop_requested(); i = next++) {
      try {
        persist(stop, [&] { body(i); });
      } catch (const std::exception& error) {
        if (stop.stop_requested()) return;
        ++failed_;
        log::warn("fetching ahead: {}", error.what());
      }
      if (done && !stop.stop_requested()) done(i);
    }
  };
  std::vector<std::jthread> threads;
  try {
    while (threads.size() < std::min<std::size_t>(kThreads, count)) threads.emplace_back(work);
  } catch (const std::system_error&) {
    if (threads.empty()) work();  // no thread could be started, so this one does the work
  }
}

void ChunkFill::bring(const ChunkRef& ref, const std::stop_token& stop) {
  if (!ref.is_zero() && !plan_.is_here(ref.cid)) reader_.bring(ref, stop);
}

void ChunkFill::bring_pack(const std::stop_token& stop) {
  for_each(
      plan_.pack ? plan_.pack->chunks() : 0, stop, [&](std::size_t i) { plan_.pack->bring(i, stop); },
      [&](std::size_t i) { note([&](FillProgress& progress) { progress.pack_bytes_here += plan_.pack->length(i); }); });
  note([](FillProgress& progress) { progress.pack_done = true; });
}

void ChunkFill::bring_order(const std::stop_token& stop) {
  for_each(
      plan_.order.size(), stop,
      [&](std::size_t i) {
        const FillPlan::Place& place = plan_.order[i];
        if (place.chunk < chunk_count(place.image->size())) {
          for (const ChunkRef& ref : place.image->references(place.chunk, Priority::kReadahead, stop)) bring(ref, stop);
        }
      },
      [&](std::size_t) { note([](FillProgress& progress) { ++progress.order_here; }); });
  if (stop.stop_requested()) return;
  if (plan_.on_order_here) plan_.on_order_here();
  plan_.pack.reset();
  note([](FillProgress& progress) { progress.order_done = true; });
}

/// Returns false when stopped.
bool ChunkFill::list_whole(const std::stop_token& stop) {
  const PatchedTree content = plan_.whole->base();
  std::vector<ChunkRef> pages;
  const std::function<void(const ChunkRef&, unsigned)> list = [&](const ChunkRef& page, unsigned level) {
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "stopped");
    pages.push_back(page);
    for (const ChunkRef& ref : *reader_.read_page(page, Priority::kReadahead, stop)) {
      if (ref.is_zero()) continue;
      if (level > 0) {
        list(ref, level - 1);
      } else {
        whole_.push_back(ref);
      }
    }
  };
  const bool listed = persist(stop, [&] {
    whole_.clear();
    pages.clear();
    for (const TreeRoot& patch : content.patches) list(patch.root, tree_levels(patch.size) - 1);
    if (!content.tree.root.is_zero()) list(content.tree.root, tree_levels(content.tree.size) - 1);
  });
  if (!listed) return false;
  const std::size_t chunks = whole_.size();
  whole_.insert(whole_.end(), pages.begin(), pages.end());
  if (plan_.pin) {
    std::vector<Cid> cids;
    cids.reserve(whole_.size());
    for (const ChunkRef& ref : whole_) cids.push_back(ref.cid);
    plan_.pin(cids);
  }
  note([&](FillProgress& progress) { progress.whole = chunks; });
  return true;
}

std::vector<ChunkRef> ChunkFill::missing_objects() const {
  std::vector<ChunkRef> missing;
  std::copy_if(whole_.begin(), whole_.end(), std::back_inserter(missing),
               [&](const ChunkRef& ref) { return !plan_.is_here(ref.cid); });
  return missing;
}

void ChunkFill::bring_whole(const std::stop_token& stop) {
  failed_ = 0;
  const std::vector<ChunkRef> missing = missing_objects();
  note([&](FillProgress& progress) { progress.whole_here = chunks_here(*progress.whole, missing.size()); });
  for_each(missing.size(), stop, [&](std::size_t i) {
    bring(missing[i], stop);
    note([](FillProgress& progress) { progress.whole_here = std::min(progress.whole_here + 1, *progress.whole); });
  });
  if (stop.stop_requested()) return;
  const std::size_t left = missing_objects().size();  // fetched objects may not have found room in the cache
  note([&](FillProgress& progress) {
    progress.whole_here = chunks_here(*progress.whole, left);
    if (left == 0) progress.complete_since = wall_now();
  });
  if (left > failed_) log::warn("fetching ahead: the cache has no room for {} objects", left - failed_);
}

FillProgress ChunkFill::recheck() {
  if (progress_.lock()->complete_since) {
    const std::size_t missing = missing_objects().size();
    if (missing > 0) {
      note([&](FillProgress& progress) {
        progress.complete_since.reset();
        progress.whole_here = chunks_here(*progress.whole, missing);
        progress.is_incomplete_again = true;
      });
    }
  }
  return progress();
}

void ChunkFill::run(const std::stop_token& stop) {
  try {
    bring_pack(stop);
    bring_order(stop);
    if (!plan_.whole || !list_whole(stop)) return;
    while (!stop.stop_requested()) {
      bring_whole(stop);
      auto progress = progress_.lock();
      changed_.wait(progress.mutex_lock(), stop, [&] { return progress->is_incomplete_again; });
      progress->is_incomplete_again = false;
    }
  } catch (const std::exception& error) {
    if (!stop.stop_requested()) log::warn("fetching ahead has ended: {}", error.what());
  }
}

}  // namespace isr

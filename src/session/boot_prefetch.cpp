// Prefetching only saves time: data that it could not fetch is read when the guest asks for it. Only the device state
// and the tables of memory's patches must be here before the guest runs.

#include "session/boot_prefetch.h"

#include <fmt/format.h>

#include <algorithm>

#include "account/version_reader.h"
#include "base/log.h"
#include "base/sleep.h"
#include "base/thread_pool.h"
#include "chunkstore/pack_pins.h"
#include "session/packed_images.h"

namespace isr {
namespace {

constexpr unsigned kFetchThreads = 12;  // an upper limit; the link is the usual limit
constexpr std::chrono::milliseconds kAskAgain{1000};
// After this time the guest runs, and waits only for the pages that it reads instead of the whole pack.
constexpr std::chrono::milliseconds kLongestPackWait{5000};
// The deadline for the pack's list of pages, which has 0.6 MiB at most. It is long enough for a slow link, and ends the
// wait for a server that has stopped answering.
constexpr std::chrono::milliseconds kLongestHeadWait{10'000};

void check(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; nothing was changed");
}

}  // namespace

BootPrefetch::BootPrefetch(const HostState& host, const ParcelEntry& parcel, const StateFile& state,
                           const SessionImages& images, SessionObjects& objects)
    : host_(host), parcel_(parcel), state_(state), images_(images), objects_(objects) {}

std::string_view to_name(Prefetch prefetch) noexcept {
  switch (prefetch) {
    case Prefetch::kNone:
      return "none";
    case Prefetch::kWorkingSet:
      return "ws";
    case Prefetch::kAll:
      break;
  }
  return "all";
}

Prefetch parse_prefetch(std::string_view text) {
  for (const Prefetch prefetch : {Prefetch::kNone, Prefetch::kWorkingSet, Prefetch::kAll}) {
    if (text == to_name(prefetch)) return prefetch;
  }
  throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is not one of none, ws, all", text));
}

std::shared_ptr<Image> BootPrefetch::image_of(const std::string& name) const {
  return name == to_name(ImageRole::kMemory) ? memory_.lock() : images_.image(name);
}

// --- before the guest runs -----------------------------------------------------

void BootPrefetch::fetch_device_state(const ProgressFn& progress, const std::stop_token& stop) {
  std::vector<ChunkRef> chunks;
  std::uint64_t total = 0;
  const auto add = [&](std::uint64_t, const ChunkRef& ref) {
    chunks.push_back(ref);
    total += ref.length;
  };
  for_each_chunk(objects_.reader(), state_.now().find(ImageRole::kDevice)->image.content.tree, add,
                 Priority::kReadahead, stop);
  Sync<std::uint64_t> done;  // its mutex also serialises the calls of progress()
  parallel_for(chunks.size(), kFetchThreads, [&](std::size_t i) {
    check(stop);
    if (!objects_.is_here(chunks[i].cid)) objects_.reader().bring(chunks[i], stop);
    auto guard = done.lock();
    *guard += chunks[i].length;
    if (progress) progress("devices", *guard, total);
  });
}

/// Without these no byte of memory can be read, but for those of the boot pack. A disk that the guest does not read yet
/// may have a table that is out of reach, so that of a disk is fetched by the first read.
void BootPrefetch::fetch_memory_tables(const std::stop_token& stop) {
  const auto base = images_.part(ImageRole::kMemory).image->base_content();
  if (!base->tree().patches.empty()) base->index(objects_.reader(), Priority::kReadahead, stop);
}

void BootPrefetch::open_pack(const std::stop_token& stop) {
  const VersionImage* image = state_.now().base_version.find(ImageRole::kBootPack);
  if (!image) return;
  std::stop_source either;
  const std::stop_callback with_caller(stop, [&] { either.request_stop(); });
  const std::jthread in_time([&](const std::stop_token& done) {
    sleep_unless_stopped(kLongestHeadWait, done);
    either.request_stop();
  });
  try {
    pack_ = std::make_shared<HotPages>(objects_.reader(), image->content.tree, either.get_token());
  } catch (const Error& error) {
    check(stop);
    log::warn("the machine continues without its boot pack: {}", error.what());
  }
}

void BootPrefetch::prepare(Prefetch prefetch, const ProgressFn& progress, const std::stop_token& stop) {
  pack_.reset();
  for (;;) {
    check(stop);
    try {
      fetch_device_state(progress, stop);
      fetch_memory_tables(stop);
      break;
    } catch (const Error& error) {
      if (!objects_.waits() || (error.kind() != ErrorKind::kOffline && error.kind() != ErrorKind::kTransient)) throw;
      if (progress) progress("devices: waiting for the repository", 0, 0);
    }
    sleep_unless_stopped(kAskAgain, stop);
    check(stop);
  }
  if (prefetch != Prefetch::kNone) open_pack(stop);
  check(stop);
}

void BootPrefetch::attach(const std::shared_ptr<Image>& memory) {
  memory_ = memory;
  touches_ = std::make_shared<FirstTouches>();
  pages_ = 0;
  const std::vector<std::string> names = packed_image_names(state_.now());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto image = image_of(names[i]);
    image->set_touches(touches_, static_cast<std::uint8_t>(i));
    image->set_hot_pages({});
    if (!pack_) continue;
    const auto& named = pack_->head().images;
    const auto it = std::find(named.begin(), named.end(), BootImage{names[i], digest_of(image->base())});
    if (it == named.end()) continue;  // the pack was made of another content of this image
    const auto number = static_cast<std::uint8_t>(it - named.begin());
    const auto& pages = pack_->head().order.pages;
    pages_ += static_cast<std::uint64_t>(
        std::count_if(pages.begin(), pages.end(), [&](const BootPlace& page) { return page.image == number; }));
    image->set_hot_pages({pack_, number});
  }
}

void BootPrefetch::detach() {
  for (const std::string& name : packed_image_names(state_.now())) {
    const auto image = image_of(name);
    if (!image) continue;  // the memory image is gone
    image->set_touches(nullptr, 0);
    image->set_hot_pages({});
  }
  pack_.reset();
}

// --- while it runs ---------------------------------------------------------------

void BootPrefetch::begin_fill(Prefetch prefetch) {
  end_fill();
  const auto memory = memory_.lock();
  if (prefetch == Prefetch::kNone || !memory) return;
  FillPlan plan;
  plan.is_here = [this](const Cid& cid) { return objects_.is_here(cid); };
  if (prefetch == Prefetch::kAll) plan.whole = memory;
  plan.pin = [this](std::span<const Cid> cids) {
    CachePins(cache_directory(host_.paths)).pin(parcel_.id, state_.directory() / "session", cids);
  };
  std::vector<std::shared_ptr<Image>> images;
  if (pack_) {
    const std::vector<std::string> known = packed_image_names(state_.now());
    for (const BootImage& image : pack_->head().images) {
      const bool is_known = std::find(known.begin(), known.end(), image.name) != known.end();
      images.push_back(is_known ? image_of(image.name) : nullptr);
    }
    for (const BootPlace& place : pack_->head().order.chunks) {
      if (images[place.image]) plan.order.push_back({images[place.image], place.number});
    }
    plan.pack = std::move(pack_);
  }
  // By then the chunks of the pack's pages are in the cache, so the pack is no longer needed.
  plan.on_order_here = [images] {
    for (const auto& image : images) {
      if (image) image->set_hot_pages({});
    }
  };
  auto fill = std::make_shared<ChunkFill>(objects_.reader(), std::move(plan));
  fill->start();
  *fill_.lock() = std::move(fill);
}

void BootPrefetch::wait_for_pack(const ProgressFn& progress, const std::stop_token& stop) const {
  const auto fill = *fill_.lock();
  if (!fill || pages_ == 0) return;
  fill->wait_for_pack(kLongestPackWait, stop, [&](const FillProgress& now) {
    if (progress) progress("boot pack", now.pack_bytes_here, now.pack_bytes);
  });
  check(stop);
}

void BootPrefetch::end_fill() {
  std::shared_ptr<ChunkFill> ended;
  ended.swap(*fill_.lock());
  if (ended) ended->request_stop();
}

void BootPrefetch::request_stop() {
  if (const auto fill = *fill_.lock()) fill->request_stop();
}

bool BootPrefetch::is_fetching_working_set() const {
  const auto fill = *fill_.lock();
  return fill && !fill->progress().order_done;
}

void BootPrefetch::add_stats(SessionStats& out) const {
  out.boot_pack_pages = pages_;
  const auto fill = *fill_.lock();
  if (!fill) return;
  const FillProgress progress = fill->recheck();
  out.fetching_ahead = FetchingAhead{progress.order, progress.order_here, progress.waiting};
  if (progress.whole) out.memory = MemoryHere{*progress.whole, progress.whole_here, progress.complete_since};
}

}  // namespace isr

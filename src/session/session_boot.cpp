// Fast resumes: a version may carry a boot pack (docs/formats/boot-pack.md) with the
// pages that its machine will read first. Publishing makes it, resuming fetches it before the guest
// runs, and behind it the chunks that were read first, then the rest of memory, are fetched while
// the guest runs. All of it only saves time: whatever is missing or damaged is read when it is asked for.

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "account/version_reader.h"
#include "base/log.h"
#include "base/sleep.h"
#include "base/thread_pool.h"
#include "chunkstore/pack_pins.h"
#include "session/session.h"
#include "session/session_part.h"

namespace isr {
namespace {

constexpr const char* kBootPackName = "bootpack";
constexpr unsigned kFetchThreads = 12;  // at most: the link decides
constexpr unsigned kSealThreads = 2;
constexpr std::chrono::milliseconds kAskAgain{1000};
// A pack may take so long at suspend, on a link that is slow enough to show.
constexpr std::chrono::duration<double> kPackUpload{10};
constexpr std::chrono::duration<double> kNoTime{1};
constexpr std::size_t kLeastPages = 1024;
// Then the guest runs, and waits for the page it needs instead of for all of them.
constexpr std::chrono::milliseconds kLongestPackWait{5000};
// The deadline for a list of pages, which has 0.6 MiB at most: for a server that has stopped answering, not for a thin
// link.
constexpr std::chrono::milliseconds kLongestHeadWait{10'000};

void check(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; nothing was changed");
}

/// Pages for which uploading takes some seconds more, as the link was found to be. They compress to half, mostly.
std::size_t affordable_pages(std::uint64_t uploaded_bytes, std::chrono::duration<double> took) {
  if (took < kNoTime) return kMaxBootPages;
  const double bytes = static_cast<double>(uploaded_bytes) * (kPackUpload / took);
  return std::clamp<std::size_t>(2 * static_cast<std::size_t>(bytes) / kBootPageSize, kLeastPages, kMaxBootPages);
}

/// `first`, then what else is in `second`.
void append_new(std::vector<BootPlace>& first, const std::vector<BootPlace>& second, std::size_t most) {
  std::set<std::pair<std::uint8_t, std::uint64_t>> seen;
  for (const BootPlace& place : first) seen.emplace(place.image, place.number);
  for (const BootPlace& place : second) {
    if (first.size() >= most) return;
    if (seen.emplace(place.image, place.number).second) first.push_back(place);
  }
}

}  // namespace

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
  throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is none of none, ws, all", text));
}

/// A pack numbers images by their position here.
std::vector<std::string> Session::boot_image_names() const {
  std::vector<std::string> names;
  for (const SessionImage& image : state_.images) {
    if (rules_of(image.image.role).is_in_boot_pack) names.push_back(image.image.name);
  }
  return names;
}

std::shared_ptr<Image> Session::boot_image(const std::string& name) const {
  return name == "memory" ? memory_image_ : part(name).image;
}

bool Session::is_here(const Cid& cid) const { return settled_->contains(cid) || cache_->contains(cid); }

// --- before the guest runs -----------------------------------------------------

void Session::fetch_device_state(const ProgressFn& progress, const std::stop_token& stop) {
  std::vector<ChunkRef> chunks;
  std::uint64_t total = 0;
  const auto add = [&](std::uint64_t, const ChunkRef& ref) {
    chunks.push_back(ref);
    total += ref.length;
  };
  for_each_chunk(*reader_, state_.find("device")->image.tree, add, Priority::kReadahead, stop);
  Sync<std::uint64_t> done;  // its mutex makes one report of another, too
  parallel_for(chunks.size(), kFetchThreads, [&](std::size_t i) {
    check(stop);
    if (!is_here(chunks[i].cid)) reader_->bring(chunks[i], stop);
    auto guard = done.lock();
    *guard += chunks[i].length;
    if (progress) progress("devices", *guard, total);
  });
}

void Session::open_boot_pack(const std::stop_token& stop) {
  const VersionImage* image = state_.base_version.find(kBootPackName);
  if (!image) return;
  std::stop_source either;
  const std::stop_callback with_caller(stop, [&] { either.request_stop(); });
  const std::jthread in_time([&](const std::stop_token& done) {
    sleep_unless_stopped(kLongestHeadWait, done);
    either.request_stop();
  });
  try {
    boot_pack_ = std::make_shared<HotPages>(*reader_, image->tree, either.get_token());
  } catch (const Error& error) {
    check(stop);
    log::warn("the machine continues without its boot pack: {}", error.what());
  }
}

void Session::prepare_resume(Prefetch prefetch, const ProgressFn& progress, const std::stop_token& stop) {
  boot_pack_.reset();
  for (;;) {
    check(stop);
    try {
      fetch_device_state(progress, stop);
      break;
    } catch (const Error& error) {
      if (!waits_ || (error.kind() != ErrorKind::kOffline && error.kind() != ErrorKind::kTransient)) throw;
      if (progress) progress("devices: waiting for the repository", 0, 0);
    }
    sleep_unless_stopped(kAskAgain, stop);
    check(stop);
  }
  if (prefetch != Prefetch::kNone) open_boot_pack(stop);
  check(stop);
}

void Session::attach_boot_pack() {
  touches_ = std::make_shared<FirstTouches>();
  boot_pack_pages_ = 0;
  const std::vector<std::string> names = boot_image_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto image = boot_image(names[i]);
    image->set_touches(touches_, static_cast<std::uint8_t>(i));
    image->set_hot_pages({});
    if (!boot_pack_) continue;
    const auto& named = boot_pack_->head().images;
    const auto it = std::find(named.begin(), named.end(), BootImage{names[i], image->base().root.digest});
    if (it == named.end()) continue;  // what it has of this image is of another time
    const auto number = static_cast<std::uint8_t>(it - named.begin());
    const auto& pages = boot_pack_->head().order.pages;
    boot_pack_pages_ += static_cast<std::uint64_t>(
        std::count_if(pages.begin(), pages.end(), [&](const BootPlace& page) { return page.image == number; }));
    image->set_hot_pages({boot_pack_, number});
  }
}

void Session::detach_boot_pack() {
  for (const std::string& name : boot_image_names()) {
    const auto image = boot_image(name);
    if (!image) continue;  // no memory
    image->set_touches(nullptr, 0);
    image->set_hot_pages({});
  }
  boot_pack_.reset();
}

// --- while it runs ---------------------------------------------------------------

void Session::begin_fill(Prefetch prefetch) {
  end_fill();
  if (prefetch == Prefetch::kNone || !memory_image_) return;
  FillPlan plan;
  plan.is_here = [this](const Cid& cid) { return is_here(cid); };
  if (prefetch == Prefetch::kAll) plan.whole = memory_image_;
  plan.pin = [this](std::span<const Cid> cids) {
    CachePins(cache_directory(account_.paths)).pin(parcel_.id, directory_ / "session", cids);
  };
  std::vector<std::shared_ptr<Image>> images;
  if (boot_pack_) {
    const std::vector<std::string> known = boot_image_names();
    for (const BootImage& image : boot_pack_->head().images) {
      const bool is_known = std::find(known.begin(), known.end(), image.name) != known.end();
      images.push_back(is_known ? boot_image(image.name) : nullptr);
    }
    for (const BootPlace& place : boot_pack_->head().order.chunks) {
      if (images[place.image]) plan.order.push_back({images[place.image], place.number});
    }
    plan.pack = std::move(boot_pack_);
  }
  // Now the chunks of its pages are in the cache.
  plan.on_order_here = [images] {
    for (const auto& image : images) {
      if (image) image->set_hot_pages({});
    }
  };
  auto fill = std::make_shared<ChunkFill>(*reader_, std::move(plan));
  fill->start();
  *fill_.lock() = std::move(fill);
}

void Session::wait_for_boot_pack(const ProgressFn& progress, const std::stop_token& stop) const {
  const auto fill = *fill_.lock();
  if (!fill || boot_pack_pages_ == 0) return;
  fill->wait_for_pack(kLongestPackWait, stop, [&](const FillProgress& now) {
    if (progress) progress("boot pack", now.pack_bytes_here, now.pack_bytes);
  });
  check(stop);
}

void Session::end_fill() {
  std::shared_ptr<ChunkFill> ended;
  ended.swap(*fill_.lock());
  if (ended) ended->request_stop();
}

bool Session::is_fetching_working_set() const {
  const auto fill = *fill_.lock();
  return fill && !fill->progress().order_done;
}

void Session::add_boot_stats(SessionStats& out) const {
  out.boot_pack_pages = boot_pack_pages_;
  const auto fill = *fill_.lock();
  if (!fill) return;
  const FillProgress progress = fill->recheck();
  out.fetching_ahead = FetchingAhead{progress.order, progress.order_here, progress.waiting};
  if (progress.whole) out.memory = MemoryHere{*progress.whole, progress.whole_here, progress.complete_since};
}

// --- at suspend ------------------------------------------------------------------

std::shared_ptr<ChunkReader> Session::local_reader() const {
  return std::make_shared<ChunkReader>(open_stack({settled_tier(settled_), cache_tier(cache_)}, local_stats_),
                                       ReaderOptions{.decoded_bytes = 16U << 20U});
}

std::optional<RehearsalImages> Session::rehearsal_images() {
  if (state_.phase != SessionPhase::kSuspended || !part("memory").overlay->is_dirty()) return std::nullopt;
  RehearsalImages images;
  images.touches = std::make_shared<FirstTouches>();
  const auto reader = local_reader();
  const std::vector<std::string> names = boot_image_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const TreeRoot base = part(names[i]).image->base();
    auto scratch = make_scratch_overlay(directory_, base.size, part(names[i]).overlay);
    auto image = std::make_shared<Image>(names[i], base, reader, std::move(scratch));
    image->set_touches(images.touches, static_cast<std::uint8_t>(i));
    (names[i] == "memory" ? images.memory : images.disks.emplace_back()) = std::move(image);
  }
  return images;
}

/// Read from what is being published, whatever happens to the session meanwhile. Pages whose
/// bytes are not on this host are left out.
Bytes Session::make_boot_pack(BootOrder order, const Publication& publication) const {
  BootHead head;
  std::vector<std::unique_ptr<Image>> images;
  const auto reader = local_reader();
  for (const std::string& name : boot_image_names()) {
    const TreeRoot& tree = publication.version.find(name)->tree;
    head.images.push_back({name, tree.root.digest});
    images.push_back(std::make_unique<Image>(name, tree, reader, nullptr));
  }
  // Read chunk by chunk, whatever their order.
  std::vector<std::size_t> by_place(order.pages.size());
  std::iota(by_place.begin(), by_place.end(), 0);
  std::sort(by_place.begin(), by_place.end(), [&](std::size_t a, std::size_t b) {
    const auto key = [&](std::size_t i) { return std::pair(order.pages[i].image, order.pages[i].number); };
    return key(a) < key(b);
  });
  std::vector<Bytes> contents(order.pages.size());
  for (const std::size_t i : by_place) {
    Bytes page(kBootPageSize);
    try {
      images[order.pages[i].image]->read(order.pages[i].number * kBootPageSize, page);
      contents[i] = std::move(page);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kOffline) throw;
    }
  }
  for (std::size_t i = 0; i < order.pages.size(); ++i) {
    if (!contents[i].empty()) head.order.pages.push_back(order.pages[i]);
  }
  head.order.chunks = std::move(order.chunks);
  Bytes pack = encode_boot_head(head);
  for (const Bytes& page : contents) pack.insert(pack.end(), page.begin(), page.end());
  return pack;
}

TreeRoot Session::seal_boot_pack(ByteView bytes, std::map<Cid, std::uint32_t>& objects) {
  const std::size_t count = chunk_count(bytes.size());
  std::vector<ChunkRef> refs(count);
  const auto put_kept = [&](const SealedObject& object) {
    sweep_.keep(object.ref.cid);
    settled_->put(object.ref.cid, object.bytes);
  };
  parallel_for(count, kSealThreads, [&](std::size_t i) {
    Bytes chunk = to_bytes(bytes.subspan(i * kChunkSize, std::min(kChunkSize, bytes.size() - i * kChunkSize)));
    chunk.resize(kChunkSize);
    const SealedObject sealed = seal_chunk(chunk, account_.keys.domain_secret);
    if (!sealed.ref.is_zero()) put_kept(sealed);
    refs[i] = sealed.ref;
  });
  std::map<std::uint64_t, ChunkRef> changes;
  for (std::size_t i = 0; i < count; ++i) {
    changes[i] = refs[i];
    if (!refs[i].is_zero()) objects.emplace(refs[i].cid, refs[i].length);
  }
  const auto emit = [&](const SealedObject& page) {
    put_kept(page);
    objects.emplace(page.ref.cid, page.ref.length);
  };
  const TreeRoot root = update_tree(*reader_, {bytes.size(), {}}, changes, account_.keys.domain_secret, emit);
  settled_->sync();
  return root;
}

void Session::add_boot_pack(const PublishOptions& options, Publication& publication, const ProgressFn& progress) {
  if (!options.memory || !options.boot_order) return;
  try {
    BootOrder order = options.boot_order();
    if (touches_) {
      const BootOrder own = touches_->order();
      if (order.pages.empty()) order.pages = own.pages;
      append_new(order.chunks, own.chunks, kMaxBootChunks);
    }
    if (order.pages.empty()) return;
    const std::size_t most = affordable_pages(publication.upload_bytes, publication.upload_time);
    if (order.pages.size() > most) order.pages.resize(most);
    std::map<Cid, std::uint32_t> objects;
    const TreeRoot root = seal_boot_pack(make_boot_pack(std::move(order), publication), objects);
    upload(objects, Presence::kUnknown, kBootPackName, progress, options.stop);
    publication.objects.insert(objects.begin(), objects.end());
    publication.version.images.push_back({kBootPackName, ImageRole::kBootPack, root});
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    log::warn("the version is published without a boot pack: {}", error.what());
  }
}

}  // namespace isr

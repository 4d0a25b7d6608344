#include "session/boot_prefetch.h"

#include <catch2/catch.hpp>
#include <thread>

#include "base/sleep.h"
#include "support/comes_true.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/session_parts.h"
#include "support/silent_store.h"

using namespace isr;

namespace {

constexpr std::uint64_t kPagesInChunk = kChunkSize / kBootPageSize;
constexpr std::uint8_t kDisk = 0;
constexpr std::uint8_t kMemory = 1;

/// Returns the object `held` only after release(), or after a minute.
class HoldingStore : public test::FaultStore {
 public:
  HoldingStore(BlobStorePtr inner, std::string held) : FaultStore(std::move(inner)), held_(std::move(held)) {}
  void release() { released_.request_stop(); }
  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    if (name == held_) sleep_unless_stopped(std::chrono::minutes(1), released_.get_token());
    return FaultStore::get(name, range, stop);
  }

 private:
  std::string held_;
  std::stop_source released_;
};

/// A machine that was suspended and published with a boot pack: the second page of its memory and the first of its
/// disk, then the memory's chunk 2.
struct Place : test::CheckedOut {
  Bytes contents = test::random_bytes(4 * kChunkSize, 2);
  Bytes devices = test::random_bytes(5000, 3);
  Cid order_chunk;  ///< the memory's chunk 2

  Place() {
    test::SessionParts parts(*this);
    parts.memory.begin(true)->write(0, contents);
    parts.memory.begin_run(true);
    parts.memory.keep({test::some_stamp(), devices, {}});
    parts.memory.abandon();
    PublishOptions options;
    options.memory = true;
    options.boot_order = [] { return BootOrder{{{kMemory, 1}, {kDisk, 0}}, {{kMemory, 2}}}; };
    CHECK(parts.publisher.publish(options, {}).version == 2);
    order_chunk = parts.images.image("memory")->references(2, Priority::kGuest, {}).at(0).cid;
  }
  /// Removes the cache, so that all objects must be fetched.
  void forget_cache() const { fs::remove_all(account.host.paths.cache); }
};

SessionStats stats_of(const BootPrefetch& prefetch) {
  SessionStats stats;
  prefetch.add_stats(stats);
  return stats;
}

}  // namespace

TEST_CASE("device state and boot pack are fetched before a guest runs, and the pack answers its first reads",
          "[session]") {
  Place place;
  place.forget_cache();
  const auto store = std::make_shared<HoldingStore>(place.account.remote.store, object_name(place.order_chunk));
  place.account.remote.store = store;
  test::SessionParts parts(place);
  std::set<std::string> steps;
  parts.prefetch.prepare(Prefetch::kWorkingSet,
                         [&](std::string_view step, std::uint64_t, std::uint64_t) { steps.emplace(step); }, {});
  CHECK(steps.contains("devices"));
  const auto memory = parts.memory.begin(false);
  CHECK(parts.prefetch.pages() == 2);
  CHECK(stats_of(parts.prefetch).boot_pack_pages == 2);
  parts.prefetch.begin_fill(Prefetch::kWorkingSet);
  parts.prefetch.wait_for_pack({}, {});
  Bytes page(kBootPageSize);
  memory->read(kBootPageSize, page);
  CHECK(memory->counters().hot_pages == 1);
  CHECK(parts.prefetch.is_fetching_working_set());
  store->release();  // once the chunks of the order are here, the pack answers no more reads
  CHECK((ByteView(page).size() == kBootPageSize &&
         std::equal(page.begin(), page.end(), place.contents.begin() + kBootPageSize)));
  CHECK((parts.memory.device_state() == place.devices));
  CHECK(test::comes_true([&] { return !parts.prefetch.is_fetching_working_set(); }));
  const auto ahead = stats_of(parts.prefetch).fetching_ahead;
  REQUIRE(ahead.has_value());
  CHECK(ahead->order_chunks == ahead->order_chunks_here);
  CHECK_FALSE(stats_of(parts.prefetch).memory.has_value());
  parts.memory.abandon();
  CHECK_FALSE(stats_of(parts.prefetch).fetching_ahead.has_value());
}

TEST_CASE("Prefetch::kAll fetches all of memory, which then needs no repository", "[session]") {
  Place place;
  place.forget_cache();
  {
    test::SessionParts parts(place);
    parts.prefetch.prepare(Prefetch::kAll, {}, {});
    parts.memory.begin(false);
    parts.prefetch.begin_fill(Prefetch::kAll);
    CHECK(test::comes_true([&] {
      const auto here = stats_of(parts.prefetch).memory;
      return here && here->offline_safe_since;
    }));
    parts.memory.abandon();
  }
  place.account.remote.store = nullptr;
  test::SessionParts parts(place);
  CHECK((test::read_image(*parts.images.image("memory"), place.contents.size()) == place.contents));
}

TEST_CASE("nothing is fetched ahead with Prefetch::kNone or without memory", "[session]") {
  Place place;
  test::SessionParts parts(place);
  SECTION("with Prefetch::kNone") {
    parts.prefetch.prepare(Prefetch::kNone, {}, {});
    parts.memory.begin(false);
    parts.prefetch.begin_fill(Prefetch::kNone);
  }
  SECTION("without memory") {
    parts.prefetch.prepare(Prefetch::kAll, {}, {});
    parts.prefetch.begin_fill(Prefetch::kAll);
  }
  CHECK(parts.prefetch.pages() == 0);
  CHECK_FALSE(parts.prefetch.is_fetching_working_set());
  CHECK_FALSE(stats_of(parts.prefetch).fetching_ahead.has_value());
}

TEST_CASE("first reads of a guest are recorded until the prefetch is detached", "[session]") {
  Place place;
  test::SessionParts parts(place);
  CHECK(parts.prefetch.own_order().pages.empty());
  const auto memory = parts.memory.begin(false);
  Bytes page(kBootPageSize);
  memory->read(kChunkSize, page);
  parts.images.image("disk")->read(0, page);
  const std::vector<BootPlace> expected{{kMemory, kPagesInChunk}, {kDisk, 0}};
  CHECK(parts.prefetch.own_order().pages == expected);
  CHECK(parts.prefetch.own_order().chunks == std::vector<BootPlace>{{kMemory, 1}, {kDisk, 0}});
  parts.prefetch.detach();
  memory->read(2 * kChunkSize, page);
  parts.memory.abandon();
  CHECK(parts.prefetch.own_order().pages == expected);  // for the next boot pack
}

TEST_CASE("prepare() goes on without a boot pack that is missing, and waits for the device state", "[session]") {
  Place place;
  place.forget_cache();
  const BlobStorePtr store = place.account.remote.store;
  SECTION("the guest runs without the pack") {
    test::SessionParts parts(place);
    const Cid pack = parts.state.now().base_version.find(ImageRole::kBootPack)->content.tree.root.cid;
    place.account.remote.store->remove(object_name(pack));
    parts.prefetch.prepare(Prefetch::kAll, {}, {});
    parts.memory.begin(false);
    CHECK(parts.prefetch.pages() == 0);
  }
  SECTION("the wait for the device state ends on stop") {
    const auto silent = std::make_shared<test::SilentStore>(store, "objects/");
    place.account.remote.store = silent;
    test::SessionParts parts(place);
    std::stop_source source;
    const std::jthread stopper([&] {
      while (!silent->is_asked()) std::this_thread::yield();
      source.request_stop();
    });
    CHECK((test::kind_thrown([&] { parts.prefetch.prepare(Prefetch::kAll, {}, source.get_token()); }) ==
           ErrorKind::kCancelled));
    CHECK_FALSE(silent->has_timed_out());
  }
}
